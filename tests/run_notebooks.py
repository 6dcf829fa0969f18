"""`nbdev_test` for coverage.py: exported cells are compiled with the file name and line numbers of their module.

A line that a notebook runs then counts as covered in the package.
`tests/check_in_step.py` ensures that notebook and module have the same code.
"""

import ast
import re
from functools import cache
from pathlib import Path

from execnb.shell import CaptureShell
from nbdev.test import nbdev_test

ROOT = Path(__file__).resolve().parent.parent
run_cell = CaptureShell.cell


@cache
def positions() -> dict[str, tuple[str, int]]:
    "Cell id → its module's file, and the number of lines above the cell in that file."
    found = {}
    for path in (ROOT / "fashionern").rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            marker = re.match(r"# %% \S+\.ipynb #(\S+)$", line)
            if marker:
                found[marker.group(1)] = str(path), number
    return found


class LineShift(ast.NodeTransformer):
    "Adds a number to all line numbers of a cell."

    def __init__(self, lines: int):
        self.lines = lines

    def visit(self, node: ast.AST) -> ast.AST:
        return ast.increment_lineno(node, self.lines)


def run_at_position(shell: CaptureShell, cell: dict, **options: bool) -> None:
    "Run a cell; an exported cell runs with the file name and line numbers of its module."
    if "export" not in (cell.get("directives_") or {}) or cell.get("id") not in positions():
        return run_cell(shell, cell, **options)
    path, lines = positions()[cell["id"]]
    shift = LineShift(lines)
    original = shell.compile.cache
    shell.compile.cache = lambda *_, **__: path
    shell.ast_transformers.append(shift)
    try:
        return run_cell(shell, cell, **options)
    finally:
        shell.compile.cache = original
        shell.ast_transformers.remove(shift)


if __name__ == "__main__":
    CaptureShell.cell = run_at_position
    nbdev_test()
