"Hostile strings, numbers, documents and bytes."

import json
import math
import struct
from random import Random
from typing import Any

from hypothesis import strategies as hst

from . import draw
from .draw import Maker

STRINGS = (
    "", " ", "\0", "a\0b", "..", ".", "../../canary.txt", "../canary.txt", "/etc/passwd", "C:\\evil.png", "\\\\host\\share", "a/b/../../..", "~/x", "-rf", "con",
    "\ud800", "x\udcff.png", "\x1b[2J\x1b]0;x\x07", "line\nline", "\r\n", "\u2028", "\u202e", "\ufeff", "e\u0301", "straße", "Ⅷ", "٣", "1e309", "-0", "1_000", "0x10", "nan",
    "<script>alert(1)</script>", "=cmd|' /C calc'!A0", "'; drop table photos; --", "' or '1'='1", "%", "%s%n", "_", "*", "[", "[bold]", "[/]", "{x}", "{0.__class__}", "${HOME}", "\\", '"', "'", ",",
    "ErnError: ", "images/", "./.png", ".png", "a.png.png", "x" * 300, "x" * 100_000, "a " * 3_000, "/" * 2_000, "[" * 5_000, "not " * 500,
)  # fmt: skip
NUMBERS = (0, -1, 1, 2, 2**31, -(2**31) - 1, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**30, 10**400, 0.5, 1e-320, 1e308, math.nan, math.inf, -math.inf, True, False)
NESTED = ([], {}, [[]], [None], {"": None}, [{}], [1, "a"], {"a": [1]}, [[[[]]]])


class Raw(str):
    "Text that is written into JSON as it is."


RAW = tuple(map(Raw, ("[" * 100_000, '{"a":' * 50_000, "1" * 5_000, "-", "NaN", "1e999", '"\\ud800"', '"\\u0000"', '"\\', "/**/", "tru", "0x1", "'a'", "[1,]", '{"a":1,"a":2}')))
_DRAWN = draw.pool(hst.one_of(hst.text(max_size=8), hst.integers(-(2**70), 2**70), hst.floats()), 600)
SCALARS = draw.one_of(*[draw.sampled_from(STRINGS)] * 2, draw.sampled_from(NUMBERS), draw.sampled_from((None, *NESTED)), draw.sampled_from(_DRAWN))
TEXTS = draw.one_of(draw.sampled_from(STRINGS), draw.sampled_from([v for v in _DRAWN if isinstance(v, str)]))
VALUES = draw.one_of(*[SCALARS] * 6, draw.sampled_from(RAW), draw.lists(SCALARS, 3))


def dumps(value: Any) -> str:
    "JSON that may hold `Raw` parts and, in `Pairs`, repeated keys."
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{dumps(k)}:{dumps(v)}" for k, v in value) + "}"
    if isinstance(value, dict):
        return dumps(Pairs(value.items()))
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(dumps, value)) + "]"
    return _huge(value) if isinstance(value, int) and abs(value) > 10**300 else json.dumps(value)


def _huge(value: int) -> str:
    return "9" * 5_000


class Pairs(list):
    "An object as key-value pairs."


def _open(value: Any) -> Any:
    "The document as lists and `Pairs`, which can be changed in place."
    if isinstance(value, dict):
        return Pairs([k, _open(v)] for k, v in value.items())
    return [_open(v) for v in value] if isinstance(value, (list, tuple)) else value


def _nodes(value: Any, found: list) -> list:
    "All (container, position) pairs of a document."
    for i in range(len(value) if isinstance(value, list) else 0):
        found.append((value, i))
        _nodes(value[i][1] if isinstance(value, Pairs) else value[i], found)
    return found


def _change(nodes: list, at: int, how: str, value: Any) -> Any:
    container, i = nodes[at % len(nodes)]
    value = _open(value)
    if i >= len(container):
        return
    pair = isinstance(container, Pairs)
    if how == "delete":
        del container[i]
    elif how == "double":
        container.insert(i, [container[i][0], value] if pair else container[i])
    elif how == "rename" and pair:
        container[i][0] = value if isinstance(value, str) and not isinstance(value, Raw) else "x"
    elif how == "add":
        container.insert(i, ["extra" if not isinstance(value, str) or isinstance(value, Raw) else value, value] if pair else value)
    elif pair:
        container[i][1] = value
    else:
        container[i] = value


CHANGES = draw.lists(draw.tuples(draw.integers(0, 1 << 16), draw.sampled_from(("replace", "replace", "replace", "delete", "double", "rename", "add")), VALUES), 3)


def changed(document: Any, changes: list) -> Any:
    "The document with some changes; `dumps` writes it."
    document = _open({"": document})
    for at, how, value in changes:
        nodes = _nodes(document[0][1], []) or [(document, 0)]
        if at % 53 == 0 and how == "replace":
            nodes = [(document, 0)]  # replace the document itself
        _change(nodes, at, how, value)
        if not document:
            document = _open({"": None})
    return document[0][1]


# --- bytes -------------------------------------------------------------------------------------------------------------

TOKENS = tuple(s.encode("utf-8", "surrogatepass") for s in STRINGS) + (b"\xff\xfe", b"\xff" * 16, b"\n", b"\t", b"\r", b'"', b",", b"\xef\xbb\xbf", b"\x00" * 64, b"PK\x03\x04", b"{", b"]", b"\\u0000")
STEPS = draw.lists(
    draw.tuples(draw.sampled_from(("flip", "byte", "cut", "drop", "repeat", "insert", "token", "number", "zero", "swap")), draw.integers(0, (1 << 32) - 1), draw.integers(0, (1 << 32) - 1)), 5
)


def damaged(data: bytes, steps: list) -> bytes:
    "The bytes after some damaging steps."
    out = bytearray(data)
    for how, where, value in steps:
        at, length = where % (len(out) + 1), 1 + value % 64
        if how == "flip" and at < len(out):
            out[at] ^= 1 << value % 8
        elif how == "byte" and at < len(out):
            out[at] = value % 256
        elif how == "cut":
            del out[at:]
        elif how == "drop":
            del out[at : at + length]
        elif how == "repeat":
            out[at:at] = out[max(0, at - length) : at] * (1 + value % 5)
        elif how == "insert":
            out[at:at] = value.to_bytes(4, "little") * (length // 8 + 1)
        elif how == "token":
            out[at:at] = TOKENS[value % len(TOKENS)]
        elif how == "number":
            kind = ("<I", ">I", "<H", ">H", "<Q", ">Q")[value % 6]
            number = (0, 1, -1, 1 << 31, 255, 65536, (1 << 40) - 1)[value // 6 % 7] % (1 << 8 * struct.calcsize(kind))
            out[at : at + struct.calcsize(kind)] = struct.pack(kind, number)
        elif how == "zero":
            out[at : at + length] = bytes(len(out[at : at + length]))
        elif how == "swap":
            other = value % (len(out) + 1)
            out[at : at + 8], out[other : other + 8] = bytes(out[other : other + 8]), bytes(out[at : at + 8])
    return bytes(out)


def json_bytes(document: Any, changes: list, steps: list) -> bytes:
    "The changed document as JSON, damaged."
    return damaged(dumps(changed(document, changes)).encode("utf-8", "surrogatepass"), steps)


RARELY = draw.one_of(*[draw.just([])] * 5, STEPS)  # leaves most documents well-formed


def documents(*kinds: Any) -> Maker:
    "JSON files that resemble one of these documents."
    return draw.builds(json_bytes, draw.sampled_from(kinds), CHANGES, RARELY)


def lines_of(*kinds: list) -> Maker:
    "JSON Lines files that resemble one of these lists of documents."

    def write(records: list, changes: list, steps: list) -> bytes:
        made = changed(records, changes)
        text = "\n".join(map(dumps, made)) if isinstance(made, list) and not isinstance(made, Pairs) else dumps(made)
        return damaged(text.encode("utf-8", "surrogatepass"), steps)

    return draw.builds(write, draw.sampled_from(kinds), CHANGES, RARELY)


def near(*files: bytes) -> Maker:
    "Bytes that resemble one of these files."
    return draw.builds(damaged, draw.sampled_from(files), STEPS)


def folders(files: dict[str, Maker]) -> Maker:
    "Name → content of files; occasionally one is missing."

    def make(rng: Random) -> dict[str, bytes]:
        return {name: made(rng) for name, made in files.items() if rng.random() < 0.98}

    return make


def write_files(files: dict[str, bytes], folder) -> None:
    "Write the files of an input into its folder."
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
