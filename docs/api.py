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
    signature: str  # '(x: Tensor, k: int = 5) -> Tensor', or nothing
    options: list[str] = field(default_factory=list)  # of the directive, such as ':classmethod:'
    text: str = ""  # the docstring
    parameters: dict[str, str] = field(default_factory=dict)  # name → description
    returns: str = ""
    members: list["Entry"] = field(default_factory=list)


def entries(source: str) -> list[Entry]:
    "Entries of the public functions and classes that a cell defines."
    said = comments(source)
    made = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = [n for n in ast.parse(source).body if isinstance(n, made) and not n.name.startswith("_")]
    return [_class(n, said) if isinstance(n, ast.ClassDef) else _function(n, said) for n in nodes]


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
    "Each argument with the line on which its default ends, or the argument itself without one."
    a = node.args
    plain = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(plain) - len(a.defaults)) + list(a.defaults)
    rest = [(one, None) for one in (a.vararg, a.kwarg) if one]
    for arg, default in [*zip(plain, defaults), *zip(a.kwonlyargs, a.kw_defaults), *rest]:
        yield arg, (default or arg).end_lineno


def _function(node: Function, said: dict[int, str], owner: str = "") -> Entry:
    marks = {ast.unparse(d).split(".")[-1] for d in node.decorator_list}
    by_line = {line: arg.arg for arg, line in _arguments(node) if line != node.lineno}  # the last argument of a line
    end = node.returns.end_lineno if node.returns else 0
    entry = Entry(
        "function", node.name, _signature(node, bool(owner) and "staticmethod" not in marks), text=_text(node)
    )
    entry.parameters = {name: said[line] for line, name in by_line.items() if line in said}
    entry.returns = said.get(end, "") if end != node.lineno and end not in by_line else ""
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


def _class(node: ast.ClassDef, said: dict[int, str]) -> Entry:
    methods = [n for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and not n.target.id.startswith("_")]
    entry = Entry("class", node.name, "", text=_text(node))
    entry.members = [_function(m, said, node.name) for m in methods if not m.name.startswith("_")]
    init = next((m for m in methods if m.name == "__init__"), None)
    if init:
        made = _function(init, said, node.name)
        entry.signature, entry.parameters = made.signature.split(" -> ")[0], made.parameters
    elif _is_record(node):
        entry.signature = f"({', '.join(_field(f) for f in fields)})"
        entry.parameters = {f.target.id: said[f.end_lineno] for f in fields if f.end_lineno in said}
    return entry


def _is_record(node: ast.ClassDef) -> bool:
    marks = " ".join(ast.unparse(n) for n in [*node.decorator_list, *node.bases])
    return "dataclass" in marks or "NamedTuple" in marks


def _field(node: ast.AnnAssign) -> str:
    "A dataclass field written as an argument."
    value: Optional[ast.expr] = node.value
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        given = {k.arg: k.value for k in value.keywords}
        made = given.get("default_factory")
        value = ast.Call(made, [], []) if isinstance(made, ast.Name) else given.get("default", ast.Constant(...))
    return f"{node.target.id}: {ast.unparse(node.annotation)}" + (f" = {ast.unparse(value)}" if value else "")


def _text(node: Definition) -> str:
    return " ".join((ast.get_docstring(node) or "").split())
