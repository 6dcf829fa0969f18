"A small run, killed at any moment and resumed: weights, results and log equal those of an undisturbed run."

import json
import random
import shutil
from collections import Counter
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import load_file

from fashionern.data.drawn.garments import draw_fashioniq
from fashionern.errors import exit_on_error
from fashionern.training.flags import parse_train
from fashionern.training.run import run_training

from .children import child, counted


def flags(root: Path, run: Path) -> list[str]:
    "Flags for a run with several steps and evaluations in every phase, saving its state twice a second."
    places = ["--root", str(root), "--run-dir", str(run), "--features-dir", f"{run}-features"]
    sizes = """--preset demo --device cpu --num-workers 0 --warmup-epochs 2 --warmup-batch-size 10
               --tme-epochs 2 --tme-batch-size 8 --num-epochs 2 --eval-every 1 --batch-size 8
               --ffn 64 --compare tirg --save-every 0.5"""
    return [*places, *sizes.split()]


def train(root: Path, run: Path, *more: str) -> None:
    "Run `ern_train` with these flags."
    with exit_on_error():
        run_training(parse_train([*flags(root, run), *more]))


def outcome(run: Path) -> dict:
    "Everything in a run folder that must not depend on how often the run was killed."
    weights = {}
    for path in sorted(run.rglob("*.safetensors")):
        if not path.stem.startswith("resume"):
            with safe_open(path, "np") as f:
                header = f.metadata()
            weights[path.relative_to(run).as_posix()] = (header, {k: v.tobytes() for k, v in load_file(path).items()})
    log = {}
    for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        kind = "loss" if "loss" in row else "figures"
        log[row["stage"], row["epoch"], kind] = {k: v for k, v in row.items() if k not in ("time", "seconds")}
    return {"weights": weights, "log": log, "results": json.loads((run / "results.json").read_text())}


def difference(now: dict | list, expected: dict | list) -> str:
    "A short text on where two outcomes differ."
    if isinstance(now, list):
        return f": {now} instead of {expected}"[:2000]
    places = [k for k in now.keys() | expected.keys() if now.get(k) != expected.get(k)]
    return "".join(f"\n{k}: {now.get(k)} instead of {expected.get(k)}"[:500] for k in sorted(places, key=str))


def phase(run: Path) -> str:
    "The phase in which a run was killed."
    if not (run / "record.json").exists():
        return "start"
    if not (run / "clip.safetensors").exists():
        return "warm-up"
    rows = (run / "metrics.jsonl").read_text().splitlines()
    last = next((json.loads(r) for r in reversed(rows) if r.endswith("}")), {"stage": ""})
    if not (run / "encoders.safetensors").exists():
        return "stage 1" if (run / "stage1").exists() else "extraction before stage 1"
    if not (run / "models").exists():
        return "extraction before stage 2"
    if (run / "results.json").exists():
        return "end"
    return "evaluation" if last["stage"].startswith("stage 2") and "loss" in last else "stage 2"


def damage(run: Path, rng: random.Random) -> str:
    "Flip one bit of a weights file or cut it short; the best weights are spared, because there is no copy of them."
    files = sorted(p for p in run.rglob("*.safetensors") if p.stem != "best")
    if not files:
        return ""
    path = rng.choice(files)
    content = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        content = content[: rng.randrange(len(content))]
    else:
        at = rng.randrange(len(content))
        content[at] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return path.relative_to(run).as_posix()


def kill_training(folder: Path, kills: int, seed: int = 0, damaged: float = 0.25) -> Counter:
    "Kill a run at random moments and resume it, one in four with a damaged file; returns the kills per phase."
    rng = random.Random(seed)
    root = folder / "data"
    died = Counter()
    drawn = child(lambda: draw_fashioniq(root, 12, 8, 8, 20, 10, 5, size=32, workers=1), folder / "log")
    assert drawn.status == 0, drawn.output
    whole = child(lambda: train(root, folder / "whole"), folder / "log")
    assert whole.status == 0, whole.output
    again = child(lambda: train(root, folder / "again"), folder / "log")
    expected = outcome(folder / "whole")
    assert again.status == 0 and outcome(folder / "again") == expected, "the same seed gave another run"
    for number in counted(kills, "training"):
        run = folder / f"run{number}"
        moment = rng.uniform(0, 0.98 * whole.seconds)
        ended = child(lambda: train(root, run), folder / "log", after=moment)
        where = phase(run) if ended.status < 0 else "done before"
        broken = damage(run, rng) if run.exists() and rng.random() < damaged else ""
        resumed = child(lambda: train(root, run, "--resume"), folder / "log")
        context = f"kill {number} (seed {seed}, after {moment:.3f} s, in {where}, damaged: {broken or 'nothing'})"
        assert resumed.status == 0, f"{context}: {resumed.output[-3000:]}"
        try:
            now = outcome(run)
        except Exception as e:
            raise AssertionError(f"{context}: the run folder cannot be read") from e
        for part in expected:
            assert now[part] == expected[part], f"{context}: {part} differ{difference(now[part], expected[part])}"
        died[where] += 1
        died["with a damaged file"] += bool(broken)
        for leftover in folder.glob(f"{run.name}*"):
            shutil.rmtree(leftover)
    return died
