"Training in processes of its own: two ranks, killed and stopped runs, with and without `torchrun`."

import json
import os
import signal
import socket
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


SAVE_OFTEN = {"save-every": 0.3}  # seconds


@pytest.fixture(scope="module")
def garments(tmp_path_factory) -> Path:
    "A small drawn dataset."
    root = tmp_path_factory.mktemp("garments") / "data"
    draw_fashioniq(root, 24, 16, 16, 40, 12, 5, size=48, workers=1)
    return root


def flags(root: Path, run: Path, **more) -> list[str]:
    "A short run of the demo's preset on `root`, which saves its state only at the end of a stage."
    chosen = {"preset": "demo", "root": root, "run-dir": run, "device": "cpu", "num-workers": 0}
    chosen |= {"warmup-epochs": 1, "tme-epochs": 1, "num-epochs": 5, "ffn": 64, "compare": "combiner"}
    chosen |= {"warmup-batch-size": 40, "tme-batch-size": 40, "batch-size": 40, "save-every": 1000, **more}
    args = []
    for name, value in chosen.items():
        args += [f"--{name}", str(value)]
    return args


def run(command: list, **kwargs) -> subprocess.CompletedProcess:
    done = subprocess.run([str(c) for c in command], env=ENV, capture_output=True, text=True, timeout=400, **kwargs)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def trained(*args: str) -> None:
    "A complete `ern_train`, with one thread like the other processes."
    code = "import torch; torch.set_num_threads(1); from fashionern.cli.train import main; main()"
    done = forked(ROOT, code, *args)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def unbroken(garments, tmp_path_factory) -> Path:
    "An undisturbed run of one process."
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    trained(*flags(garments, folder))
    return folder


@pytest.fixture(scope="module")
def unbroken_of_two(garments, tmp_path_factory) -> Path:
    "The same run with two ranks, each with its own run folder and with digests of its weights next to it."
    folder = tmp_path_factory.mktemp("two")
    run([*TORCHRUN, Path(__file__).parent / "two_ranks.py", folder, *flags(garments, folder / "run")])
    return folder / "run" / "rank0"


def weights(run_dir: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "models" / name / "last.safetensors")


def assert_same(run_dir: Path, expected: Path, *names: str) -> None:
    "A disturbed run has the weights and results of the undisturbed one."
    for name in names or ("fashionern", "combiner"):
        actual = weights(run_dir, name)
        undisturbed = weights(expected, name)
        assert actual.keys() == undisturbed.keys(), name
        assert all(torch.equal(actual[k], undisturbed[k]) for k in actual), name
    results = [json.loads((folder / "results.json").read_text()) for folder in (run_dir, expected)]
    assert results[0] == results[1]


def test_two_ranks_end_with_the_same_weights_and_rank_0_alone_writes(unbroken_of_two):
    for stage in ("warm-up", "stage 1 (TME)", "stage 2 (combiner)", "stage 2 (fashionern)"):
        digests = [(unbroken_of_two.parent.parent / f"{stage}.{rank}.sha").read_text() for rank in (0, 1)]
        assert digests[0] == digests[1], stage
    assert (unbroken_of_two / "results.json").is_file()
    assert not (unbroken_of_two.parent / "rank1").exists()


def test_two_ranks_have_the_loss_and_gradients_of_one_rank_with_twice_the_batch(tmp_path):
    done = run([*TORCHRUN, Path(__file__).parent / "all_negatives.py", tmp_path / "differences.json"])
    assert "FutureWarning" not in done.stderr
    differences = json.loads((tmp_path / "differences.json").read_text())
    assert len(differences) == 2 + 6 + 4
    for case, (loss, gradient, buffer) in differences.items():
        assert loss < 1e-5 and gradient < 1e-5 and buffer < 1e-5, (case, loss, gradient, buffer)


def test_torchrun_and_python_are_the_same_program(unbroken, unbroken_of_two):
    files = written(unbroken)
    assert files == written(unbroken_of_two) and "models/fashionern/best.safetensors" in files
    one = logged_losses(unbroken)
    two = logged_losses(unbroken_of_two)
    assert len(one) == len(two) and all(loss > 0 for loss in one + two)


def written(run_dir: Path) -> set[str]:
    return {path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*") if path.is_file()}


def logged_losses(run_dir: Path) -> list[float]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@contextmanager
def started(command: list, log: Path, **environment: str) -> Iterator[subprocess.Popen]:
    "A process that writes its errors to a file; it is killed at the end of the block."
    args = [str(c) for c in command]
    errors = log.open("w")
    env = {**ENV, **environment}
    with errors, subprocess.Popen(args, env=env, stdout=subprocess.DEVNULL, stderr=errors) as process:
        try:
            yield process
        finally:
            process.kill()


def until_logged(process: subprocess.Popen, run_dir: Path, words: str) -> None:
    "Wait for a line of the run's log; the run must not end before."
    log = run_dir / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (log.exists() and words in log.read_text()):
        running = process.poll() is None and time.monotonic() < deadline
        assert running, "the run ended before it could be stopped"
        time.sleep(0.02)


def test_a_killed_run_resumed_ends_with_the_same_weights(garments, unbroken, tmp_path):
    killed = tmp_path / "run"
    chosen = flags(garments, killed, **SAVE_OFTEN)
    with started([*PYTHON, *chosen], tmp_path / "log") as process:
        until_logged(process, killed, '"stage 2 (fashionern)", "epoch": 2,')
        code = "from fashionern.cli.train import main; main()"
        second = forked(ROOT, code, *chosen, "--resume")
        assert second.returncode == 2, second.stderr[-3000:]
        assert f"{killed} is in use by process {process.pid} on " in second.stderr
    assert not (killed / "models" / "fashionern" / "last.safetensors").exists(), "killed too late"
    trained(*chosen, "--resume")
    assert_same(killed, unbroken)


def test_a_start_that_failed_before_the_first_step_leaves_its_folder_free(garments, tmp_path):
    folder = tmp_path / "run"
    quick = {"stages": "dvr", "num-epochs": 1, "compare": "sum"}
    code = "from fashionern.cli.train import main; main()"
    (tmp_path / "features").write_text("a file, where the features should go")
    wrong = flags(garments, folder, **{"features-dir": tmp_path / "features", "lr": 0.5, **quick})
    failed = forked(ROOT, code, *wrong)
    assert failed.returncode == 2 and str(tmp_path / "features") in failed.stderr, failed.stderr[-3000:]
    assert (folder / "config.json").exists() and (folder / "encoders.safetensors").exists(), "it failed too early"
    trained(*flags(garments, folder, **quick), "--resume")  # what the first error advised, with another --lr
    assert len(json.loads((folder / "record.json").read_text())["starts"]) == 1
    refused = forked(ROOT, code, *flags(garments, folder, **quick))
    assert refused.returncode == 2 and "already holds a run" in refused.stderr


def rank_of(process: subprocess.Popen, rank: int) -> int:
    "The process id of one rank of a torchrun."
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_child = f"\nPPid:\t{process.pid}\n" in (folder / "status").read_text()
            if is_child and f"\0RANK={rank}\0" in (folder / "environ").read_text():
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError(f"no rank {rank}")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to find the rank")
def test_a_rank_that_dies_is_restarted_and_the_run_ends_with_the_same_weights(garments, unbroken_of_two, tmp_path):
    restarted = tmp_path / "run"
    log = tmp_path / "log"
    command = [*TORCHRUN, "--max-restarts=2", "-m", "fashionern.train", *flags(garments, restarted, **SAVE_OFTEN)]
    with started(command, log) as process:
        until_logged(process, restarted, '"stage 2 (fashionern)", "epoch": 2,')
        os.kill(rank_of(process, 1), signal.SIGKILL)
        assert process.wait(timeout=400) == 0, log.read_text()[-3000:]
    starts = json.loads((restarted / "record.json").read_text())["starts"]
    assert [s["resumed"] for s in starts] == [False, True] and all(s["processes"] == 2 for s in starts)
    assert_same(restarted, unbroken_of_two)


def machine(port: int, *args: str) -> list:
    "The command of one of two machines, with one rank, that meet on the loopback interface."
    meeting = [f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-backend=c10d", "--rdzv-id=two", "--local-addr=127.0.0.1"]
    fast = ["--rdzv-conf=keep_alive_interval=1,last_call_timeout=1", "--max-restarts=3", "--nnodes=2"]
    ranks = ["--nproc_per_node=1", "-m", "fashionern.train"]
    return [sys.executable, "-m", "torch.distributed.run", *meeting, *fast, *ranks, *args]


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the first machine does not listen")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to find the rank")
def test_a_machine_that_dies_and_comes_back_rejoins_the_run(garments, tmp_path):
    folder = tmp_path / "run"
    quick = {"stages": "dvr", "model": "combiner", "compare": "sum", "num-epochs": 12}
    run([*TORCHRUN, "-m", "fashionern.train", *flags(garments, tmp_path / "undisturbed", **quick)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = machine(port, *flags(garments, folder, **quick, **SAVE_OFTEN))
    logs = [tmp_path / f"log{i}" for i in range(3)]
    own_store = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # else torch does not tell a new machine the address
    with started(command, logs[0], **own_store) as first:
        wait_for_port(port)
        with started(command, logs[1], **own_store) as second:
            until_logged(second, folder, '"stage 2 (combiner)", "epoch": 2,')
            worker = rank_of(second, 1)
            second.kill()
            os.kill(worker, signal.SIGKILL)
            second.wait()
        with started(command, logs[2], **own_store) as again:
            ended = [process.wait(timeout=400) for process in (first, again)]
            assert ended == [0, 0], "".join(log.read_text()[-2000:] for log in logs)
    starts = json.loads((folder / "record.json").read_text())["starts"]
    assert [s["resumed"] for s in starts][:2] == [False, True] and all(s["processes"] == 2 for s in starts)
    assert_same(folder, tmp_path / "undisturbed", "combiner")


def test_sigterm_saves_and_exits_with_its_own_status(garments, unbroken, tmp_path):
    stopped = tmp_path / "run"
    log = tmp_path / "log"
    chosen = flags(garments, stopped)
    with started([*PYTHON, *chosen], log) as process:
        until_logged(process, stopped, '"stage 2 (combiner)", "epoch": 2,')
        process.terminate()
        assert process.wait(timeout=100) == EXIT_STOPPED, log.read_text()[-3000:]
    assert "Traceback" not in log.read_text(), log.read_text()[-3000:]
    assert not (stopped / "models" / "combiner" / "last.safetensors").exists(), "stopped too late"
    assert (stopped / "models" / "combiner" / "resume.safetensors").exists()
    trained(*chosen, "--resume")
    assert_same(stopped, unbroken)
