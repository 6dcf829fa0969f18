"Programs in processes of their own without ten seconds of loading torch in each: Python's fork server loads the package once, and every program is a fork of it."

import multiprocessing
import os
import sys
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["fashionern.training.comparison", "fashionern.training.report", "fashionern.cli.index", "fashionern.search.searcher"])  # loaded, and nothing done with it


def forked(folder: Path, code: str, *args: str | Path, path: tuple[Path, ...] = (), **environment: str) -> CompletedProcess:
    "What `python -c CODE ARGS` does in that folder, with these folders before all others to import from."
    with TemporaryDirectory() as said:
        words = ["-c", *map(str, args)]
        process = SERVER.Process(target=_program, args=(folder, code, words, [str(p) for p in path], environment, Path(said)))
        process.start()
        process.join(600)
        assert process.exitcode is not None, process.kill()
        return CompletedProcess(words, process.exitcode, *((Path(said) / name).read_text() for name in ("stdout", "stderr")))


def _program(folder: Path, code: str, words: list[str], path: list[str], environment: dict[str, str], said: Path) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    os.environ.update(environment)
    sys.path[:0], sys.argv = path, words
    exec(code, {"__name__": "__main__"})
