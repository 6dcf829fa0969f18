"`nbdev_test`, with exported cells compiled as the lines of their module: under coverage.py they count where they are written (tests/check_in_step.py sees that both are the same)."

import ast
import re
from functools import cache
from pathlib import Path

from execnb.shell import CaptureShell
from nbdev.test import nbdev_test

ROOT = Path(__file__).resolve().parent.parent
run_cell = CaptureShell.cell


@cache
def written() -> dict[str, tuple[str, int]]:
    "Cell's id → the module's file, and the number of lines above the cell there."
    found = {}
    for path in (ROOT / "fashionern").rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if marker := re.match(r"# %% \S+\.ipynb #(\S+)$", line):
                found[marker.group(1)] = str(path), number
    return found


class Moved(ast.NodeTransformer):
    "Puts a cell's code so many lines lower."

    def __init__(self, lines: int):
        self.lines = lines

    def visit(self, node: ast.AST) -> ast.AST:
        return ast.increment_lineno(node, self.lines)


def as_written(shell: CaptureShell, cell: dict, **how: bool) -> None:
    "Run a cell; an exported one under the module's name and line numbers."
    if "export" not in (cell.get("directives_") or {}) or cell.get("id") not in written():
        return run_cell(shell, cell, **how)
    path, lines = written()[cell["id"]]
    kept = shell.compile.cache
    shell.compile.cache = lambda *_, **__: path
    shell.ast_transformers.append(moved := Moved(lines))
    try:
        return run_cell(shell, cell, **how)
    finally:
        shell.compile.cache = kept
        shell.ast_transformers.remove(moved)


if __name__ == "__main__":
    CaptureShell.cell = as_written
    nbdev_test()
