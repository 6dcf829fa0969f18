"""Run programs in their own processes without waiting ten seconds for torch in each.

Python's fork server imports the package once, and every program is a fork of it.
"""

import multiprocessing
import os
import sys
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

PRELOADED = (  # imported only: a fork must not inherit anything that has run
    "fashionern.training.comparison",
    "fashionern.training.report",
    "fashionern.cli.index",
    "fashionern.search.searcher",
)
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(list(PRELOADED))


def forked(
    folder: Path,  # the working directory
    code: str,
    *args: str | Path,
    path: tuple[Path, ...] = (),  # folders to put in front of `sys.path`
    **environment: str,
) -> CompletedProcess:
    "The result of `python -c CODE ARGS` in that folder."
    with TemporaryDirectory() as output:
        argv = ["-c", *map(str, args)]
        settings = (folder, code, argv, [str(p) for p in path], environment, Path(output))
        process = SERVER.Process(target=_run, args=settings)
        process.start()
        process.join(600)
        assert process.exitcode is not None, process.kill()
        stdout, stderr = ((Path(output) / name).read_text() for name in ("stdout", "stderr"))
        return CompletedProcess(argv, process.exitcode, stdout, stderr)


def _run(folder: Path, code: str, argv: list[str], path: list[str], environment: dict[str, str], output: Path) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    os.environ.update(environment)
    sys.path[:0] = path
    sys.argv = argv
    exec(code, {"__name__": "__main__"})
