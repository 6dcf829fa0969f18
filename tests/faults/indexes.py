"Building and extending an index, killed at any moment: it stays readable, and its results end up the same."

import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np

from fashionern.data.drawn.garments import draw_pictures, sample_designs
from fashionern.distributed import set_seed
from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.tme import Encoders
from fashionern.errors import exit_on_error
from fashionern.models.hub import Retriever
from fashionern.models.registry import create_model
from fashionern.search.config import parse_index
from fashionern.search.indexing import run_index
from fashionern.search.inventory import open_store

from .children import child, counted

FIRST, LATER = 40, 24  # photos at first, and photos added


def prepare(folder: Path) -> None:
    "Write the first and the later photos, and a model with random weights."
    designs = sample_designs("dress", FIRST + LATER, np.random.default_rng(0), set())
    paths = {f"{i}": folder / ("photos" if i < FIRST else "later") / f"{i}.png" for i in range(FIRST + LATER)}
    for place in ("photos", "later"):
        (folder / place).mkdir()
    draw_pictures(dict(zip(paths, designs)), paths, size=48, workers=1)
    set_seed(0)
    Retriever(Encoders(create_clip(TINY)), create_model("dvr@mask_padding", 128, ffn=64)).save_pretrained(
        folder / "model"
    )


def command(folder: Path, what: str, index: str, images: str) -> None:
    "Run `ern_index` with these flags."
    target = ["--model", str(folder / "model"), "--out"] if what == "build" else ["--index"]
    with exit_on_error():
        run_index(
            parse_index(
                [
                    what,
                    "--images",
                    str(folder / images),
                    "--num-workers",
                    "0",
                    "--device",
                    "cpu",
                    "--batch-size",
                    "4",
                    *target,
                    str(folder / index),
                ]
            )
        )


def content(folder: Path) -> tuple[dict, list]:
    "The photos with their marks, and the results of three random queries."
    store = open_store(folder)
    queries = np.random.default_rng(0).standard_normal((3, 128)).astype(np.float32)
    results = []
    for hits in store.find(queries, 9):
        results.append([(name, round(float(score), 5)) for name, score in hits])
    return store.marks(), results


def photos_in(folder: Path) -> int:
    "The number of photos in a killed index, which opens or was never started."
    return len(open_store(folder)) if (folder / "records.sqlite").exists() else 0


def kill_index(folder: Path, kills: int, what: str, seed: int = 0) -> Counter:
    "Kill `build` or `add` at random moments and run it again; returns the deaths before, between and after photos."
    rng = random.Random(seed)
    died = Counter()
    log = folder / "log"
    images = "photos" if what == "build" else "later"
    works = [lambda: prepare(folder), lambda: command(folder, "build", "first", "photos")]
    if what == "add":
        works += [
            lambda: shutil.copytree(folder / "first", folder / "whole"),
            lambda: command(folder, "add", "whole", "later"),
        ]
    for work in works:
        undisturbed = child(work, log)
        assert undisturbed.status == 0, undisturbed.output
    expected = content(folder / ("whole" if what == "add" else "first"))
    before = FIRST if what == "add" else 0
    for number in counted(kills, what):
        name = f"index{number}"
        moment = rng.uniform(0, 0.98 * undisturbed.seconds)
        if what == "add":
            shutil.copytree(folder / "first", folder / name)
        child(lambda: command(folder, what, name, images), log, after=moment)
        held = photos_in(folder / name)
        resumed = child(lambda: command(folder, what, name, images), log)
        where = f"kill {number} of {what} (seed {seed}, after {moment:.3f} s, {held} photos)"
        assert resumed.status == 0, f"{where}: {resumed.output[-3000:]}"
        assert content(folder / name) == expected, f"{where}: the index differs"
        died[
            "before the first photo"
            if held == before
            else "after the last photo"
            if held == len(expected[0])
            else "between"
        ] += 1
        shutil.rmtree(folder / name)
    return died
