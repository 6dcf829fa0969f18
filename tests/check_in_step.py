"Check that notebooks are clean and match the package: `nbdev_clean` and `nbdev_export` on a copy must change nothing."

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("settings.ini", "setup.py", "README.md", "nbs", "fashionern")


def source_files(root: Path) -> set[str]:
    "The paths of all source files below `nbs` and `fashionern`."
    files = set()
    for top in ("nbs", "fashionern"):
        for path in (root / top).rglob("*"):
            if path.suffix in (".ipynb", ".py", ".json", ".yml") and ".ipynb_checkpoints" not in path.parts:
                files.add(path.relative_to(root).as_posix())
    return files


def is_same(copy: Path, path: str) -> bool:
    "Whether a file is the same in the copy as in the project."
    one = ROOT / path
    other = copy / path
    return one.exists() and other.exists() and filecmp.cmp(one, other, shallow=False)


def main() -> int:
    with tempfile.TemporaryDirectory() as d:
        copy = Path(d) / "copy"
        copy.mkdir()
        for name in COPIED:
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
        before = source_files(copy)
        for path in before:
            if path.startswith("fashionern/") and path.endswith(".py") and not path.endswith("__init__.py"):
                (copy / path).unlink()  # so that a module without a notebook is reported
        for command in ("nbdev_clean", "nbdev_export"):
            subprocess.run([Path(sys.executable).parent / command], cwd=copy, check=True)
        changed = sorted(path for path in before | source_files(copy) if not is_same(copy, path))
    for path in changed:
        print(f"out of step: {path}. Edit the notebook, then run nbdev_export and nbdev_clean.")
    print(f"notebooks and package: {len(before)} files, {len(changed)} out of step")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
