"An index killed while it is built or added to: what is in it is whole, the same command goes on, and it then answers as an undisturbed one does."

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

FIRST, LATER = 40, 24  # photos there at first, and added


def prepare(folder: Path) -> None:
    "Photos now and later, and a model with random weights."
    designs = sample_designs("dress", FIRST + LATER, np.random.default_rng(0), set())
    paths = {f"{i}": folder / ("photos" if i < FIRST else "later") / f"{i}.png" for i in range(FIRST + LATER)}
    for place in ("photos", "later"):
        (folder / place).mkdir()
    draw_pictures(dict(zip(paths, designs)), paths, size=48, workers=1)
    set_seed(0)
    Retriever(Encoders(create_clip(TINY)), create_model("dvr@mask_padding", 128, ffn=64)).save_pretrained(folder / "model")


def command(folder: Path, what: str, index: str, images: str) -> None:
    "As `ern_index` does it."
    made = ["--model", str(folder / "model"), "--out"] if what == "build" else ["--index"]
    with exit_on_error():
        run_index(parse_index([what, "--images", str(folder / images), "--num-workers", "0", "--device", "cpu", "--batch-size", "4", *made, str(folder / index)]))


def content(folder: Path) -> tuple[dict, list]:
    "Names and marks, and what is found."
    store = open_store(folder)
    queries = np.random.default_rng(0).standard_normal((3, 128)).astype(np.float32)
    return store.marks(), [[(name, round(float(score), 5)) for name, score in answer] for answer in store.find(queries, 9)]


def there(folder: Path) -> int:
    "How many photos a killed index holds; it opens, or was never begun."
    return len(open_store(folder)) if (folder / "records.sqlite").exists() else 0


def kill_index(folder: Path, kills: int, what: str, seed: int = 0) -> Counter:
    "Kill `build` or `add` at this many random moments and give the command again; how many photos the index held at each."
    rng, died, log, images = random.Random(seed), Counter(), folder / "log", "photos" if what == "build" else "later"
    works = [lambda: prepare(folder), lambda: command(folder, "build", "first", "photos")]
    if what == "add":
        works += [lambda: shutil.copytree(folder / "first", folder / "whole"), lambda: command(folder, "add", "whole", "later")]
    for work in works:
        undisturbed = child(work, log)
        assert undisturbed.status == 0, undisturbed.said
    whole, least = content(folder / ("whole" if what == "add" else "first")), FIRST if what == "add" else 0
    for number in counted(kills, what):
        name, moment = f"index{number}", rng.uniform(0, 0.98 * undisturbed.seconds)
        if what == "add":
            shutil.copytree(folder / "first", folder / name)
        child(lambda: command(folder, what, name, images), log, after=moment)
        held = there(folder / name)
        resumed = child(lambda: command(folder, what, name, images), log)
        told = f"kill {number} of {what} (seed {seed}, after {moment:.3f} s, {held} photos)"
        assert resumed.status == 0, f"{told}: {resumed.said[-3000:]}"
        assert content(folder / name) == whole, f"{told}: the index differs"
        died["before the first photo" if held == least else "after the last photo" if held == len(whole[0]) else "between"] += 1
        shutil.rmtree(folder / name)
    return died
