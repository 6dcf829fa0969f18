"""API entries from source text: signature, one-line docstring, and the comment next to each parameter."""

import ast
import io
import tokenize
from dataclasses import dataclass, field
from typing import Iterator, Optional, Union

Function = Union[ast.FunctionDef, ast.AsyncFunctionDef]
Definition = Union[Function, ast.ClassDef]


@dataclass
class Entry:
    "One function, class, method or property of a module."

    kind: str  # the directive: 'function', 'class', 'method', 'property'
    name: str  # the name; 'Class.method' for a member
    signature: str  # '(x: Tensor, k: int = 5) -> Tensor', or empty
    options: list[str] = field(default_factory=list)  # options of the directive, such as ':classmethod:'
    text: str = ""  # the docstring
    parameters: dict[str, str] = field(default_factory=dict)  # name → description
    returns: str = ""
    members: list["Entry"] = field(default_factory=list)


def entries(source: str) -> list[Entry]:
    "Entries of the public functions and classes that a cell defines."
    notes = comments(source)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = [n for n in ast.parse(source).body if isinstance(n, kinds) and not n.name.startswith("_")]
    return [_class(n, notes) if isinstance(n, ast.ClassDef) else _function(n, notes) for n in nodes]


def only_imports(source: str) -> bool:
    "Whether a cell only imports; magic such as `%matplotlib inline` is ignored."
    if any(line.startswith("!") for line in source.splitlines()):
        return False
    body = ast.parse("\n".join(line for line in source.splitlines() if not line.startswith("%"))).body
    return all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in body)


def comments(source: str) -> dict[int, str]:
    "Line number → the comment on that line."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}


def _arguments(node: Function) -> Iterator[tuple[ast.arg, int]]:
    "Each argument and the line on which it ends, including its default."
    a = node.args
    plain = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(plain) - len(a.defaults)) + list(a.defaults)
    rest = [(one, None) for one in (a.vararg, a.kwarg) if one]
    for arg, default in [*zip(plain, defaults), *zip(a.kwonlyargs, a.kw_defaults), *rest]:
        yield arg, (default or arg).end_lineno


def _function(node: Function, notes: dict[int, str], owner: str = "") -> Entry:
    marks = {ast.unparse(d).split(".")[-1] for d in node.decorator_list}
    # if several arguments share a line, its comment describes the last one
    argument_on = {line: arg.arg for arg, line in _arguments(node) if line != node.lineno}
    end = node.returns.end_lineno if node.returns else 0
    entry = Entry(
        "function", node.name, _signature(node, bool(owner) and "staticmethod" not in marks), text=_text(node)
    )
    entry.parameters = {name: notes[line] for line, name in argument_on.items() if line in notes}
    entry.returns = notes.get(end, "") if end != node.lineno and end not in argument_on else ""
    if owner:
        entry.kind, entry.name = "method", f"{owner}.{node.name}"
        entry.options = [f":{m}:" for m in ("classmethod", "staticmethod") if m in marks]
        if marks & {"property", "cached_property"}:
            entry.kind, entry.signature = "property", ""
            entry.options = [f":type: {ast.unparse(node.returns)}"] if node.returns else []
    return entry


def _signature(node: Function, bound: bool) -> str:
    a = ast.parse(f"def f({ast.unparse(node.args)}): ...").body[0].args  # a copy, from which `self` is removed
    if bound:
        del (a.posonlyargs or a.args)[0]
    return f"({ast.unparse(a)})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def _class(node: ast.ClassDef, notes: dict[int, str]) -> Entry:
    methods = [n for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and not n.target.id.startswith("_")]
    entry = Entry("class", node.name, "", text=_text(node))
    entry.members = [_function(m, notes, node.name) for m in methods if not m.name.startswith("_")]
    init = next((m for m in methods if m.name == "__init__"), None)
    if init:
        constructor = _function(init, notes, node.name)
        entry.signature = constructor.signature.split(" -> ")[0]
        entry.parameters = constructor.parameters
    elif _is_record(node):
        entry.signature = f"({', '.join(_field(f) for f in fields)})"
        entry.parameters = {f.target.id: notes[f.end_lineno] for f in fields if f.end_lineno in notes}
    return entry


def _is_record(node: ast.ClassDef) -> bool:
    marks = " ".join(ast.unparse(n) for n in [*node.decorator_list, *node.bases])
    return "dataclass" in marks or "NamedTuple" in marks


def _field(node: ast.AnnAssign) -> str:
    "A dataclass field written as an argument."
    value: Optional[ast.expr] = node.value
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        given = {k.arg: k.value for k in value.keywords}
        factory = given.get("default_factory")
        value = ast.Call(factory, [], []) if isinstance(factory, ast.Name) else given.get("default", ast.Constant(...))
    return f"{node.target.id}: {ast.unparse(node.annotation)}" + (f" = {ast.unparse(value)}" if value else "")


def _text(node: Definition) -> str:
    return " ".join((ast.get_docstring(node) or "").split())
