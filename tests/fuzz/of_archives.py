"ZIP and TAR files, and URL lists."

import bz2
import gzip
import io
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

from fashionern.data.download.archives import flat, tree, unpack
from fashionern.data.download.image_urls import Journal, read_url_list

from . import draw
from .harness import BrokenContract, target
from .hostile import RARELY, STEPS, STRINGS, TEXTS, damaged, near

NAMES = draw.one_of(draw.sampled_from(("a.jpg", "b/a.jpg", "B/A.JPG", "a.jpg/b.jpg", "women/1.jpg", "x.txt", "dir/")), draw.sampled_from([s + end for s in STRINGS for end in ("", ".jpg")]), draw.builds(lambda s: s + ".jpg", TEXTS))
CONTENTS = draw.sampled_from((b"", b"x", b"picture" * 20, bytes(4096)))
MODES = draw.sampled_from((0, 0o100644, 0o120777, 0o040755, 0o020666, 0o010666, 0o140666, 0o104777))
KINDS = draw.sampled_from((tarfile.REGTYPE,) * 4 + (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, b"Z"))
SIZES = draw.sampled_from((None,) * 8 + (0, 1 << 20, 1 << 35))
MEMBERS = draw.lists(draw.tuples(NAMES, CONTENTS, MODES, KINDS, SIZES), 4)


def zip_bytes(members: list) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        warnings.simplefilter("ignore")
        for name, content, mode, _, _ in members:
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type, info.external_attr = name.encode("utf-8", "replace").decode()[:60_000], zipfile.ZIP_DEFLATED, mode << 16
            z.writestr(info, content)
    return out.getvalue()


def tar_bytes(members: list) -> bytes:
    out = io.BytesIO()
    for name, content, mode, kind, size in members:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.size = kind, mode, len(content) if size is None else size
        info.linkname = "../../canary.txt"
        try:
            out.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        except (ValueError, struct.error, UnicodeError):
            continue
        out.write(content + bytes(-len(content) % 512))
    return out.getvalue() + bytes(1024)


def _packed(members: list, how: str, inner: list, outer: list) -> bytes:
    data = damaged(zip_bytes(members) if how == "zip" else tar_bytes(members), inner)
    wrap = {"gz": gzip.compress, "bz2": bz2.compress}.get(how, bytes)
    return damaged(wrap(data), outer)


ARCHIVES = draw.builds(_packed, MEMBERS, draw.sampled_from(("zip", "zip", "tar", "gz", "bz2")), RARELY, RARELY)


@target("archive-tree", ARCHIVES)
def _(data: bytes, folder: Path) -> None:
    _unpack(data, folder, tree((".jpg",), "women"))


@target("archive-flat", ARCHIVES)
def _(data: bytes, folder: Path) -> None:
    _unpack(data, folder, flat((".jpg", ".txt")))


def _unpack(data: bytes, folder: Path, place) -> None:
    (folder / "archive").write_bytes(data)
    unpack(folder / "archive", folder / "out", place, max_bytes=1 << 22, max_members=100, progress=False)
    for path in (folder / "out").rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()) or path.name.endswith(".part"):
            raise BrokenContract("unpacked something other than a plain file", path.name)


def _bombs() -> draw.Maker:
    "Archives of zeros that are small on disk."
    big = [("a.jpg", bytes(8 << 20), 0, tarfile.REGTYPE, None)]
    packed = zip_bytes(big), gzip.compress(tar_bytes(big)), bz2.compress(tar_bytes(big)), gzip.compress(gzip.compress(tar_bytes(big)))
    return draw.builds(damaged, draw.sampled_from(packed), STEPS)


@target("archive-bomb", _bombs(), 0.1)
def _(data: bytes, folder: Path) -> None:
    _unpack(data, folder, flat((".jpg",)))
    if sum(p.stat().st_size for p in (folder / "out").rglob("*") if p.is_file()) > 1 << 22:
        raise BrokenContract("unpacked more than allowed")


@target("url-list", near(b"a1\thttp://example.org/a.jpg\nb2 https://example.org/b.jpg\n", b"\xef\xbb\xbfa1 http://h/a\r\n"))
def _(data: bytes, folder: Path) -> None:
    (folder / "urls.txt").write_bytes(data)
    for name in read_url_list(folder / "urls.txt"):
        if "/" in name or name.startswith("."):
            raise BrokenContract("a name that is a path", name)


@target("journal", near(b'{"name": "a", "url": "http://h/a", "reason": "404"}\n{"name": "b", "url": "http://h/b"}\n'))
def _(data: bytes, folder: Path) -> None:
    (folder / "gone.jsonl").write_bytes(data)
    Journal(folder / "gone.jsonl").add("c", "http://h/c", "404")
    if not Journal(folder / "gone.jsonl").knows("c", "http://h/c"):
        raise BrokenContract("an added entry is missing")
