"Training as whole processes: two ranks, a killed run, the same program three ways."

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fashionern.data.garments import draw_fashioniq
from fashionern.stopping import STOPPED

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.fixture(scope="module")
def garments(tmp_path_factory) -> Path:
    "A small drawn dataset."
    root = tmp_path_factory.mktemp("garments") / "data"
    draw_fashioniq(root, 40, 32, 32, 60, 20, 5, size=48, workers=1)
    return root


def flags(root: Path, run: Path, **more) -> list[str]:
    "A short run of the demo's preset on `root`."
    chosen = {"preset": "demo", "root": root, "run-dir": run, "device": "cpu", "num-workers": 0, "warmup-epochs": 1, "tme-epochs": 1}
    chosen |= {"warmup-batch-size": 40, "tme-batch-size": 40, "batch-size": 40, "num-epochs": 2, "ffn": 64, "compare": "combiner", "save-every": 0, **more}
    return [part for k, v in chosen.items() for part in (f"--{k}", str(v))]


def run(command: list, **kwargs) -> subprocess.CompletedProcess:
    done = subprocess.run([str(c) for c in command], env=ENV, capture_output=True, text=True, timeout=400, **kwargs)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def weights(run_dir: Path, name: str = "fashionern", which: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run_dir / "models" / name / f"{which}.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_two_ranks_end_with_the_same_weights_and_rank_0_alone_writes(garments, tmp_path):
    run([*TORCHRUN, Path(__file__).parent / "two_ranks.py", tmp_path, *flags(garments, tmp_path / "run")])
    for stage in ("warm-up", "stage 1 (TME)", "stage 2 (combiner)", "stage 2 (fashionern)"):
        zero, one = ((tmp_path / f"{stage}.{rank}.sha").read_text() for rank in (0, 1))
        assert zero == one, stage
    assert (tmp_path / "run" / "rank0" / "results.json").is_file()
    assert not (tmp_path / "run" / "rank1").exists()


def test_two_ranks_have_the_loss_and_gradients_of_one_rank_with_twice_the_batch(tmp_path):
    run([*TORCHRUN, Path(__file__).parent / "all_negatives.py", tmp_path / "apart.json"])
    apart = json.loads((tmp_path / "apart.json").read_text())
    assert len(apart) == 2 + 6 + 4
    for case, (loss, gradient, buffer) in apart.items():
        assert loss < 1e-5 and gradient < 1e-5 and buffer < 1e-5, (case, loss, gradient, buffer)


def test_torchrun_and_python_are_the_same_program(garments, tmp_path):
    run([*TORCHRUN, "-m", "fashionern.train", *flags(garments, tmp_path / "two")])
    run([sys.executable, "-m", "fashionern.train", *flags(garments, tmp_path / "one")])
    files = [{p.relative_to(tmp_path / n).as_posix() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in ("one", "two")]
    assert files[0] == files[1] and "models/fashionern/best.safetensors" in files[0]
    losses = [[row["loss"] for row in map(json.loads, (tmp_path / n / "metrics.jsonl").read_text().splitlines()) if "loss" in row] for n in ("one", "two")]
    assert len(losses[0]) == len(losses[1]) and all(v > 0 for v in sum(losses, []))


def test_a_killed_run_resumed_ends_with_the_same_weights(garments, tmp_path):
    long = {"num-epochs": 9}
    run([sys.executable, "-m", "fashionern.train", *flags(garments, tmp_path / "whole", **long)])
    command = [sys.executable, "-m", "fashionern.train", *flags(garments, tmp_path / "killed", **long)]
    process = subprocess.Popen(command, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log, deadline = tmp_path / "killed" / "metrics.jsonl", time.time() + 300
    while not (log.exists() and any('"stage 2 (fashionern)", "epoch": 3,' in row for row in log.read_text().splitlines())):
        assert process.poll() is None and time.time() < deadline, "the run ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "models" / "fashionern" / "last.safetensors").exists(), "killed too late to prove anything"
    run([*command, "--resume"])
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert same(weights(tmp_path / "whole", "combiner"), weights(tmp_path / "killed", "combiner"))
    whole, killed = (json.loads((tmp_path / n / "results.json").read_text()) for n in ("whole", "killed"))
    assert whole == killed


def until_logged(process: subprocess.Popen, log: Path, words: str) -> None:
    "Wait for a line of the log; the run must not end before."
    deadline = time.monotonic() + 300
    while not (log.exists() and words in log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, "the run ended before it could be stopped"
        time.sleep(0.02)


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
def test_a_rank_that_dies_is_started_anew_and_the_run_ends_the_same(garments, tmp_path):
    long = {"num-epochs": 9}
    run([*TORCHRUN, "-m", "fashionern.train", *flags(garments, tmp_path / "whole", **long)])
    command = [*TORCHRUN, "--max-restarts=2", "-m", "fashionern.train", *flags(garments, tmp_path / "killed", **long)]
    process = subprocess.Popen([str(c) for c in command], env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until_logged(process, tmp_path / "killed" / "metrics.jsonl", '"stage 2 (fashionern)", "epoch": 3,')
    os.kill(rank_of(process, 1), signal.SIGKILL)
    said = process.communicate(timeout=400)[1]
    assert process.returncode == 0, said[-3000:]
    starts = json.loads((tmp_path / "killed" / "record.json").read_text())["starts"]
    assert [s["resumed"] for s in starts] == [False, True] and all(s["processes"] == 2 for s in starts)
    for name in ("fashionern", "combiner"):
        assert same(weights(tmp_path / "whole", name), weights(tmp_path / "killed", name))
    whole, killed = (json.loads((tmp_path / n / "results.json").read_text()) for n in ("whole", "killed"))
    assert whole == killed


def test_sigterm_saves_and_ends_with_a_status_of_its_own(garments, tmp_path):
    long = {"num-epochs": 9, "save-every": 1000}
    run([sys.executable, "-m", "fashionern.train", *flags(garments, tmp_path / "whole", **long)])
    command = [sys.executable, "-m", "fashionern.train", *flags(garments, tmp_path / "stopped", **long)]
    process = subprocess.Popen([str(c) for c in command], env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until_logged(process, tmp_path / "stopped" / "metrics.jsonl", '"stage 2 (combiner)", "epoch": 2,')
    process.terminate()
    said = process.communicate(timeout=100)[1]
    assert process.returncode == STOPPED and "Traceback" not in said, said[-3000:]
    assert not (tmp_path / "stopped" / "models" / "combiner" / "last.safetensors").exists(), "stopped too late to prove anything"
    assert (tmp_path / "stopped" / "models" / "combiner" / "resume.safetensors").exists()
    run([*command, "--resume"])
    for name in ("fashionern", "combiner"):
        assert same(weights(tmp_path / "whole", name), weights(tmp_path / "stopped", name))
