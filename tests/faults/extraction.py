"Feature extraction killed anywhere: rows that were made are kept, the others are made, and all are what an undisturbed store holds."

import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from fashionern.data.images import ImageFinder
from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.feature_store import FeatureStore, extract_features
from fashionern.encoders.tme import Encoders

from .children import child, counted

PHOTOS = 61


def prepare(folder: Path) -> None:
    "Photos, and an encoder's weights."
    (folder / "images").mkdir()
    for i in range(PHOTOS):
        Image.effect_noise((40 + i, 50), 60).save(folder / "images" / f"{i:02}.png")
    Encoders(create_clip(TINY)).save(folder / "clip.safetensors")


def extract(folder: Path, store: str) -> None:
    "All photos, a few at a time."
    finder = ImageFinder(folder / "images")
    extract_features(create_clip(TINY, clip_path=folder / "clip.safetensors"), finder, sorted(finder.paths), folder / store, batch_size=4)


def kept(folder: Path) -> FeatureStore:
    "The store below a folder."
    return FeatureStore(next(folder.glob("*/store.json")).parent)


def kill_extraction(folder: Path, kills: int, seed: int = 0) -> Counter:
    "Kill extraction at this many random moments and call it again; how many rows were there at each."
    rng, died, log = random.Random(seed), Counter(), folder / "log"
    for work in (lambda: prepare(folder), lambda: extract(folder, "whole")):
        undisturbed = child(work, log)
        assert undisturbed.status == 0, undisturbed.said
    whole = kept(folder / "whole")
    for number in counted(kills, "extraction"):
        name, moment = f"store{number}", rng.uniform(0, 0.98 * undisturbed.seconds)
        child(lambda: extract(folder, name), log, after=moment)
        begun = list((folder / name).glob("*/store.json"))
        before = kept(folder / name).sums.copy() if begun else np.zeros(PHOTOS, int)
        resumed = child(lambda: extract(folder, name), log)
        told = f"kill {number} (seed {seed}, after {moment:.3f} s, {(before > 0).sum()} rows)"
        assert resumed.status == 0, f"{told}: {resumed.said[-3000:]}"
        after = kept(folder / name)
        assert np.array_equal(after.sums[before > 0], before[before > 0]) or "encoded again" in resumed.said, f"{told}: rows that were made were made again, and nobody was told"
        for kind in ("whole", "local", "sums"):
            assert np.array_equal(getattr(after, kind), getattr(whole, kind)), f"{told}: {kind} differ"
        died["before the first row" if not (before > 0).any() else "after the last row" if (before > 0).all() else "between"] += 1
        shutil.rmtree(folder / name)
    return died
