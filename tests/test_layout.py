"The house rules: the order of packages, the order of notebooks within a folder, and what may be flat."

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("[0-9][0-9]_*.ipynb") if ".ipynb_checkpoints" not in p.parts)

# A package imports only from itself and from packages above it.
PACKAGES = (
    "",  # the foundations, flat at the top
    "data",
    "data.drawn",
    "data.datasets",
    "data.download",
    "data.catalogue",
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
DOORS = {"fashionern", "fashionern.train"}  # at the top, but they open onto everything
FLAT = 8  # modules at the top, `__init__` aside


def cells(path: Path) -> list[str]:
    "The code cells of a notebook."
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def module_of(path: Path) -> str | None:
    "The module a notebook exports to."
    found = re.search(r"^#\|\s*default_exp\s+(\S+)", "\n".join(cells(path)), re.MULTILINE)
    return f"fashionern.{found.group(1)}".removesuffix(".__init__") if found else None


MODULES = {module: path for path in NOTEBOOKS if (module := module_of(path))}


def package_of(path: Path) -> str:
    "The package a notebook's folder stands for."
    return path.parent.relative_to(ROOT / "nbs").as_posix().replace("/", ".").strip(".")


def imported(code: str) -> set[str]:
    "Modules of the package that a cell imports, inside functions too; lines of shell or magic do not count."
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
    return found - DOORS


def out_of_order(path: Path, code: str) -> list[str]:
    "Modules that a cell of this notebook must not import."
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
    if module_of(path) in DOORS:
        return
    wrong = [module for code in cells(path) for module in out_of_order(path, code)]
    assert not wrong, f"{path.name} imports {wrong}"


def test_the_walk_sees_a_wrong_import():
    retriever = MODULES["fashionern.models.retriever"]
    assert out_of_order(retriever, "def f():\n    from fashionern.training.run import train") == ["fashionern.training.run"]
    assert out_of_order(retriever, "from fashionern.models import registry") == ["fashionern.models.registry"]
    assert not out_of_order(retriever, "import fashionern\nimport fashionern.errors")


def test_numbers_are_unique_within_a_folder():
    numbers = [(path.parent, path.name[:2]) for path in NOTEBOOKS]
    assert len(numbers) == len(set(numbers))


def test_few_modules_are_flat():
    flat = [path for path in (ROOT / "fashionern").glob("*.py") if path.name not in ("__init__.py", "_modidx.py")]
    assert len(flat) <= FLAT, sorted(path.name for path in flat)


def test_every_module_comes_from_a_notebook():
    modules = {
        "fashionern." + path.relative_to(ROOT / "fashionern").with_suffix("").as_posix().replace("/", ".")
        for path in (ROOT / "fashionern").rglob("*.py")
        if path.name not in ("__init__.py", "_modidx.py")
    }
    assert modules | {"fashionern"} == set(MODULES)


def test_every_tutorial_runs_whole_in_make_test_or_make_test_all():
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
