"The house rule: a notebook imports only from notebooks of a lower number."

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").glob("*.ipynb") if re.match(r"\d\d_", p.name))


def cells(path: Path) -> list[str]:
    "The code cells of a notebook."
    return ["".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]


def module_of(path: Path) -> str | None:
    "The module a notebook exports to."
    found = re.search(r"^#\|\s*default_exp\s+(\S+)", "\n".join(cells(path)), re.MULTILINE)
    return f"fashionern.{found.group(1)}" if found else None


NUMBER = {module_of(p): int(p.name[:2]) for p in NOTEBOOKS if module_of(p)}


def imported(code: str) -> set[str]:
    "Names of our modules that a cell imports, inside functions too; lines of shell or magic do not count."
    lines = "\n".join(line for line in code.splitlines() if not line.lstrip().startswith(("!", "%")))
    found = set()
    for node in ast.walk(ast.parse(lines)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fashionern":
            found |= {m for m in (node.module, *(f"{node.module}.{a.name}" for a in node.names)) if m in NUMBER}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name in NUMBER}
    return found


def too_high(number: int, code: str) -> set[str]:
    "What a cell of notebook `number` must not import."
    return {m for m in imported(code) if NUMBER[m] >= number}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_imports_only_lower_numbers(path):
    number = int(path.name[:2])
    wrong = {m: NUMBER[m] for cell in cells(path) for m in too_high(number, cell) if m != module_of(path)}
    assert not wrong, f"{path.name} imports {wrong}"


def test_the_walk_sees_a_wrong_import():
    assert too_high(10, "def f():\n    from fashionern.train import train") == {"fashionern.train"}
    assert too_high(10, "from fashionern.models import dvr") == {"fashionern.models.composers.dvr"}
    assert not too_high(99, "import fashionern.errors")


def test_every_module_comes_from_a_notebook():
    modules = {
        "fashionern." + p.relative_to(ROOT / "fashionern").with_suffix("").as_posix().replace("/", ".")
        for p in (ROOT / "fashionern").rglob("*.py")
        if p.name not in ("__init__.py", "_modidx.py")
    }
    assert modules == set(NUMBER)


def test_every_tutorial_runs_whole_in_make_test_or_make_test_all():
    tutorials = [p for p in NOTEBOOKS if "_tutorial." in p.name]
    assert len(tutorials) >= 7
    for path in tutorials:
        assert not any(re.search(r"^#\|\s*(eval:\s*false|notest|slow|cuda)", code, re.MULTILINE) for code in cells(path)), f"{path.name}: a cell is passed over"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    slow = re.compile(re.search(r"^SLOW\s*= (.+)$", makefile, re.MULTILINE).group(1))
    of_all = makefile.partition("\ntest-all:")[2].partition("\n\n")[0]
    assert "$(SLOW)" in of_all and 1 <= sum(bool(slow.match(p.name)) for p in tutorials) < len(tutorials)
