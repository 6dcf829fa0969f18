"Hostile input is refused: a sample of `python -m tests.fuzz`, and every input that once broke something."

from pathlib import Path

import pytest
from forked import forked

pytest.importorskip("hypothesis", reason="the fuzzer draws values with hypothesis, one of the development extras")
pytest.importorskip("starlette", reason="the search page's targets need the extra [app]")

ROOT = Path(__file__).resolve().parent.parent


def fuzzed(*args: str) -> str:
    "The output of `python -m tests.fuzz ARGS`, which must find nothing."
    done = forked(ROOT, "import sys; from tests.fuzz.__main__ import main; sys.exit(main())", *args)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def test_a_sample_of_every_target():
    lines = fuzzed("--examples", "40", "--seed", "3").splitlines()
    total = next(line for line in lines if line.startswith("all ")).split()
    assert int(total[1].replace(",", "")) > 1000 and total[4] == "0"
    groups = ("archive", "index", "page", "weights", "hub")
    assert sum(line.startswith(groups) for line in lines) > 10


def test_inputs_that_once_broke_something():
    assert fuzzed("--replay").count("--") > 20


BROKEN = """
import os, signal, sys
sys.path.insert(0, "tests")
from pathlib import Path
from fashionern.errors import ErnError
from tests.fuzz import draw, harness

harness.SECONDS, harness.MEMORY, harness.PATIENCE = 0.5, 50_000_000, 5.0


def loops(given, folder):
    while True:
        pass


def refuses(given, folder):
    raise ErnError("This is refused. Give another.")


def two_lines(given, folder):
    e = ErnError("")
    e.args = ("two\\nlines",)
    raise e


CASES = {
    "fine": lambda given, folder: (folder / "made").mkdir(),
    "refuses": refuses,
    "raises": lambda given, folder: {}["none"],
    "loops": loops,
    "sleeps": lambda given, folder: __import__("time").sleep(60),
    "grows": lambda given, folder: bytearray(b"x") * 80_000_000,
    "writes outside": lambda given, folder: (folder.parent / "evil").write_text("x"),
    "reads outside": lambda given, folder: (folder.parent / "canary.txt").read_text(),
    "removes": lambda given, folder: Path("/there-is-no-such-file").unlink(missing_ok=True),
    "runs": lambda given, folder: os.system("true"),
    "dies": lambda given, folder: os.kill(os.getpid(), signal.SIGSEGV),
    "prints": two_lines,
}
for name, call in CASES.items():
    out = harness.run_target(harness.Target(name, draw.just("x"), call, 1.0, lambda: None), 2)
    print(name, out.accepted, out.refused, list(out.other), sep="|")
"""


def test_the_harness_detects_broken_contracts():
    done = forked(ROOT, BROKEN)
    found = {}
    for line in done.stdout.splitlines():
        name, *found[name] = line.split("|")
    assert found["fine"] == ["2", "0", "[]"], done.stderr
    assert found["refuses"] == ["0", "2", "[]"], done.stderr
    expected = {
        "raises": "KeyError",
        "loops": "took too long",
        "sleeps": "no answer",
        "grows": "too much memory",
        "writes outside": "touched something outside",
        "reads outside": "touched something outside",
        "removes": "touched something outside",
        "runs": "touched something outside",
        "dies": "status -11",
        "prints": "not one printable line",
    }
    for name, problem in expected.items():
        assert problem in found[name][2], (name, found[name])
