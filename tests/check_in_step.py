"Notebooks and package in step, notebooks clean: `nbdev_export` and `nbdev_clean` on a copy must change nothing."

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("settings.ini", "setup.py", "README.md", "nbs", "fashionern")


def files(root: Path) -> set[str]:
    "All source files below `nbs` and `fashionern`, by path."
    found = (p for top in ("nbs", "fashionern") for p in (root / top).rglob("*") if p.suffix in (".ipynb", ".py", ".json", ".yml"))
    return {p.relative_to(root).as_posix() for p in found if ".ipynb_checkpoints" not in p.parts}


def main() -> int:
    with tempfile.TemporaryDirectory() as d:
        copy = Path(d) / "copy"
        copy.mkdir()
        for name in KEPT:
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
        before = files(copy)
        for path in (p for p in before if p.startswith("fashionern/") and p.endswith(".py") and not p.endswith("__init__.py")):
            (copy / path).unlink()  # a module whose notebook is gone must not survive
        for command in ("nbdev_clean", "nbdev_export"):
            subprocess.run([Path(sys.executable).parent / command], cwd=copy, check=True)
        changed = sorted(f for f in before | files(copy) if not (copy / f).exists() or not (ROOT / f).exists() or not filecmp.cmp(ROOT / f, copy / f, shallow=False))
    for name in changed:
        print(f"out of step: {name}; edit the notebook, then run nbdev_export and nbdev_clean")
    print(f"notebooks and package: {len(before)} files, {len(changed)} out of step")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
