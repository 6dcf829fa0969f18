"Nothing hostile gets in: a sample of what `python -m tests.fuzz` tries, and every input that once broke something."

from pathlib import Path

import pytest
from forked import forked

pytest.importorskip("hypothesis", reason="the fuzzer's odd values are made by hypothesis, of the development extras")
pytest.importorskip("starlette", reason="the search page's targets need the extra [app]")

ROOT = Path(__file__).resolve().parent.parent


def fuzzed(*args: str) -> str:
    done = forked(ROOT, "import sys; from tests.fuzz.__main__ import main; sys.exit(main())", *args)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def test_a_sample_of_every_target():
    lines = fuzzed("--examples", "40", "--seed", "3").splitlines()
    total = next(line for line in lines if line.startswith("all ")).split()
    assert int(total[1].replace(",", "")) > 1000 and total[4] == "0"
    assert sum(line.split()[0].startswith(("archive", "index", "page", "weights", "hub")) for line in lines if line) > 10


def test_what_once_broke_something():
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
    raise ErnError("This is refused; give another.")


def tells_too_much(given, folder):
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
    "writes beside": lambda given, folder: (folder.parent / "evil").write_text("x"),
    "reads beside": lambda given, folder: (folder.parent / "canary.txt").read_text(),
    "removes": lambda given, folder: Path("/there-is-no-such-file").unlink(missing_ok=True),
    "runs": lambda given, folder: os.system("true"),
    "dies": lambda given, folder: os.kill(os.getpid(), signal.SIGSEGV),
    "tells": tells_too_much,
}
for name, call in CASES.items():
    out = harness.run_target(harness.Target(name, draw.just("x"), call, 1.0, lambda: None), 2)
    print(name, out.accepted, out.refused, list(out.other), sep="|")
"""


def test_the_harness_sees_what_is_wrong():
    done = forked(ROOT, BROKEN)
    found = {name: rest for name, *rest in (line.split("|") for line in done.stdout.splitlines())}
    assert found["fine"] == ["2", "0", "[]"] and found["refuses"] == ["0", "2", "[]"], done.stderr
    words = {"raises": "KeyError", "loops": "took too long", "sleeps": "no answer", "grows": "too much memory", "writes beside": "not its own", "reads beside": "not its own",
             "removes": "not its own", "runs": "not its own", "dies": "status -11", "tells": "no harmless line"}  # fmt: skip
    for name, word in words.items():
        assert word in found[name][2], (name, found[name])
