"Training as whole processes: two ranks, a killed run, the same program three ways."

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest
import torch
from forked import forked
from safetensors.torch import load_file

from fashionern.data.drawn.garments import draw_fashioniq
from fashionern.interrupts import EXIT_STOPPED

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
ROOT = Path(__file__).resolve().parents[2]
PYTHON = [sys.executable, "-m", "fashionern.train"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


OFTEN = {"save-every": 0.3}  # seconds


@pytest.fixture(scope="module")
def garments(tmp_path_factory) -> Path:
    "A small drawn dataset."
    root = tmp_path_factory.mktemp("garments") / "data"
    draw_fashioniq(root, 24, 16, 16, 40, 12, 5, size=48, workers=1)
    return root


def flags(root: Path, run: Path, **more) -> list[str]:
    "A short run of the demo's preset on `root`, which saves no state of its own accord before a stage ends."
    chosen = {"preset": "demo", "root": root, "run-dir": run, "device": "cpu", "num-workers": 0, "warmup-epochs": 1, "tme-epochs": 1}
    chosen |= {"warmup-batch-size": 40, "tme-batch-size": 40, "batch-size": 40, "num-epochs": 5, "ffn": 64, "compare": "combiner", "save-every": 1000, **more}
    return [part for k, v in chosen.items() for part in (f"--{k}", str(v))]


def run(command: list, **kwargs) -> subprocess.CompletedProcess:
    done = subprocess.run([str(c) for c in command], env=ENV, capture_output=True, text=True, timeout=400, **kwargs)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def trained(*args: str) -> None:
    "`ern_train`, to its end, with one thread as the others have."
    done = forked(ROOT, "import torch; torch.set_num_threads(1); from fashionern.cli.train import main; main()", *args)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def whole(garments, tmp_path_factory) -> Path:
    "A run of one process that nothing disturbed."
    folder = tmp_path_factory.mktemp("whole") / "run"
    trained(*flags(garments, folder))
    return folder


@pytest.fixture(scope="module")
def whole_of_two(garments, tmp_path_factory) -> Path:
    "The same run with two ranks, each of which would write into a folder of its own and noted its weights beside it."
    folder = tmp_path_factory.mktemp("two")
    run([*TORCHRUN, Path(__file__).parent / "two_ranks.py", folder, *flags(garments, folder / "run")])
    return folder / "run" / "rank0"


def weights(run_dir: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "models" / name / "last.safetensors")


def assert_same(run_dir: Path, expected: Path) -> None:
    "The weights and figures of a run that was disturbed are those of one that was not."
    for name in ("fashionern", "combiner"):
        now, then = weights(run_dir, name), weights(expected, name)
        assert now.keys() == then.keys() and all(torch.equal(now[k], then[k]) for k in now), name
    now, then = (json.loads((folder / "results.json").read_text()) for folder in (run_dir, expected))
    assert now == then


def test_two_ranks_end_with_the_same_weights_and_rank_0_alone_writes(whole_of_two):
    for stage in ("warm-up", "stage 1 (TME)", "stage 2 (combiner)", "stage 2 (fashionern)"):
        zero, one = ((whole_of_two.parent.parent / f"{stage}.{rank}.sha").read_text() for rank in (0, 1))
        assert zero == one, stage
    assert (whole_of_two / "results.json").is_file()
    assert not (whole_of_two.parent / "rank1").exists()


def test_two_ranks_have_the_loss_and_gradients_of_one_rank_with_twice_the_batch(tmp_path):
    run([*TORCHRUN, Path(__file__).parent / "all_negatives.py", tmp_path / "apart.json"])
    apart = json.loads((tmp_path / "apart.json").read_text())
    assert len(apart) == 2 + 6 + 4
    for case, (loss, gradient, buffer) in apart.items():
        assert loss < 1e-5 and gradient < 1e-5 and buffer < 1e-5, (case, loss, gradient, buffer)


def test_torchrun_and_python_are_the_same_program(whole, whole_of_two):
    runs = (whole, whole_of_two)
    files = [{p.relative_to(r).as_posix() for p in r.rglob("*") if p.is_file()} for r in runs]
    assert files[0] == files[1] and "models/fashionern/best.safetensors" in files[0]
    losses = [[row["loss"] for row in map(json.loads, (r / "metrics.jsonl").read_text().splitlines()) if "loss" in row] for r in runs]
    assert len(losses[0]) == len(losses[1]) and all(v > 0 for v in sum(losses, []))


@contextmanager
def begun(command: list, said: Path) -> Iterator[subprocess.Popen]:
    "A process that writes its errors to a file; it ends with the block at the latest."
    with said.open("w") as errors, subprocess.Popen([str(c) for c in command], env=ENV, stdout=subprocess.DEVNULL, stderr=errors) as process:
        try:
            yield process
        finally:
            process.kill()


def until_logged(process: subprocess.Popen, run_dir: Path, words: str) -> None:
    "Wait for a line of the log; the run must not end before."
    log, deadline = run_dir / "metrics.jsonl", time.monotonic() + 300
    while not (log.exists() and words in log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, "the run ended before it could be stopped"
        time.sleep(0.02)


def test_a_killed_run_resumed_ends_with_the_same_weights(garments, whole, tmp_path):
    killed = tmp_path / "run"
    chosen = flags(garments, killed, **OFTEN)
    with begun([*PYTHON, *chosen], tmp_path / "said") as process:
        until_logged(process, killed, '"stage 2 (fashionern)", "epoch": 2,')
    assert not (killed / "models" / "fashionern" / "last.safetensors").exists(), "killed too late to prove anything"
    trained(*chosen, "--resume")
    assert_same(killed, whole)


def rank_of(process: subprocess.Popen, rank: int) -> int:
    "The process number of one rank of a torchrun."
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"\nPPid:\t{process.pid}\n" in (folder / "status").read_text() and f"\0RANK={rank}\0" in (folder / "environ").read_text()
        except OSError:
            continue
        if ours:
            return int(folder.name)
    raise AssertionError(f"no rank {rank}")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to find the rank that is to die")
def test_a_rank_that_dies_is_started_anew_and_the_run_ends_the_same(garments, whole_of_two, tmp_path):
    restarted, said = tmp_path / "run", tmp_path / "said"
    with begun([*TORCHRUN, "--max-restarts=2", "-m", "fashionern.train", *flags(garments, restarted, **OFTEN)], said) as process:
        until_logged(process, restarted, '"stage 2 (fashionern)", "epoch": 2,')
        os.kill(rank_of(process, 1), signal.SIGKILL)
        assert process.wait(timeout=400) == 0, said.read_text()[-3000:]
    starts = json.loads((restarted / "record.json").read_text())["starts"]
    assert [s["resumed"] for s in starts] == [False, True] and all(s["processes"] == 2 for s in starts)
    assert_same(restarted, whole_of_two)


def test_sigterm_saves_and_ends_with_a_status_of_its_own(garments, whole, tmp_path):
    stopped, said = tmp_path / "run", tmp_path / "said"
    chosen = flags(garments, stopped)
    with begun([*PYTHON, *chosen], said) as process:
        until_logged(process, stopped, '"stage 2 (combiner)", "epoch": 2,')
        process.terminate()
        assert process.wait(timeout=100) == EXIT_STOPPED and "Traceback" not in said.read_text(), said.read_text()[-3000:]
    assert not (stopped / "models" / "combiner" / "last.safetensors").exists(), "stopped too late to prove anything"
    assert (stopped / "models" / "combiner" / "resume.safetensors").exists()
    trained(*chosen, "--resume")
    assert_same(stopped, whole)
