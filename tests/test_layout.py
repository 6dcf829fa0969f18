"Rules of the layout: order of packages, order of notebooks within a folder, few top-level modules."

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("[0-9][0-9]_*.ipynb") if ".ipynb_checkpoints" not in p.parts)

# A package imports only from itself and from the packages above it in this list.
PACKAGES = (
    "",  # the foundations, at the top level
    "data.language",
    "data",
    "data.drawn",
    "data.datasets",
    "data.download",
    "data.catalogue",
    "encoders.formats",
    "encoders",
    "models.composers",
    "models",
    "evaluation",
    "training",
    "search.stores",
    "search",
    "web",
    "cli",
    "benchmark",
    "tutorials",
)
ENTRY_POINTS = {"fashionern", "fashionern.train"}  # at the top level, but they may import everything
MAX_TOP_LEVEL = 8  # modules at the top level, not counting `__init__`


def cells(path: Path) -> list[str]:
    "The source of a notebook's code cells."
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def module_of(path: Path) -> str | None:
    "The module a notebook exports to."
    found = re.search(r"^#\|\s*default_exp\s+(\S+)", "\n".join(cells(path)), re.MULTILINE)
    return f"fashionern.{found.group(1)}".removesuffix(".__init__") if found else None


MODULES = {module: path for path in NOTEBOOKS if (module := module_of(path))}


def package_of(path: Path) -> str:
    "The package that a notebook's folder mirrors."
    return path.parent.relative_to(ROOT / "nbs").as_posix().replace("/", ".").strip(".")


def imported(code: str) -> set[str]:
    "Modules of the package that a cell imports, also inside functions; shell and magic lines are skipped."
    lines = "\n".join(line for line in code.splitlines() if not line.lstrip().startswith(("!", "%")))
    found = set()
    for node in ast.walk(ast.parse(lines)):
        if isinstance(node, ast.ImportFrom) and node.module:
            named = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            named = {alias.name for alias in node.names}
        else:
            continue
        found |= named & MODULES.keys()
    return found - ENTRY_POINTS


def wrong_imports(path: Path, code: str) -> list[str]:
    "Modules that a cell imports but must not."
    own = PACKAGES.index(package_of(path))
    wrong = []
    for module in imported(code):
        other = MODULES[module]
        rank = PACKAGES.index(package_of(other))
        if rank > own or (rank == own and other.name > path.name):
            wrong.append(module)
    return sorted(wrong)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / "nbs").as_posix())
def test_imports_follow_the_order_of_packages_and_notebooks(path):
    if module_of(path) in ENTRY_POINTS:
        return
    for code in cells(path):
        wrong = wrong_imports(path, code)
        assert not wrong, f"{path.name} imports {wrong}"


def test_wrong_imports_are_detected():
    retriever = MODULES["fashionern.models.retriever"]
    later_package = "def f():\n    from fashionern.training.run import train"
    assert wrong_imports(retriever, later_package) == ["fashionern.training.run"]
    assert wrong_imports(retriever, "from fashionern.models import registry") == ["fashionern.models.registry"]
    assert not wrong_imports(retriever, "import fashionern\nimport fashionern.errors")


def test_numbers_are_unique_within_a_folder():
    numbers = [(path.parent, path.name[:2]) for path in NOTEBOOKS]
    assert len(numbers) == len(set(numbers))


def test_few_modules_are_at_the_top_level():
    modules = [path for path in (ROOT / "fashionern").glob("*.py") if path.name not in ("__init__.py", "_modidx.py")]
    assert len(modules) <= MAX_TOP_LEVEL, sorted(path.name for path in modules)


def test_every_module_comes_from_a_notebook():
    modules = {
        "fashionern." + path.relative_to(ROOT / "fashionern").with_suffix("").as_posix().replace("/", ".")
        for path in (ROOT / "fashionern").rglob("*.py")
        if path.name not in ("__init__.py", "_modidx.py")
    }
    assert modules | {"fashionern"} == set(MODULES)


def test_make_test_or_make_test_all_runs_every_cell_of_every_tutorial():
    tutorials = [path for path in NOTEBOOKS if path.parent.name == "tutorials"]
    assert len(tutorials) >= 7
    skipped = re.compile(r"^#\|\s*(eval:\s*false|notest|slow|cuda)", re.MULTILINE)
    for path in tutorials:
        assert not any(skipped.search(code) for code in cells(path)), f"{path.name}: a cell is skipped"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    slow = re.compile(re.search(r"^SLOW\s*= (.+)$", makefile, re.MULTILINE).group(1))
    of_all = makefile.partition("\ntest-all:")[2].partition("\n\n")[0]
    assert "$(SLOW)" in of_all and 1 <= sum(bool(slow.match(path.name)) for path in tutorials) < len(tutorials)
    assert not [path for path in NOTEBOOKS if slow.match(path.name) and path not in tutorials]
