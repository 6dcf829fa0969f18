"Feature extraction, killed at any moment: finished rows stay, and all rows equal those of an undisturbed store."

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

IMAGES = 61


def prepare(folder: Path) -> None:
    "Write images and an encoder's weights."
    (folder / "images").mkdir()
    for i in range(IMAGES):
        Image.effect_noise((40 + i, 50), 60).save(folder / "images" / f"{i:02}.png")
    Encoders(create_clip(TINY)).save(folder / "clip.safetensors")


def extract(folder: Path, store: str) -> None:
    "Extract the features of all images in small batches."
    finder = ImageFinder(folder / "images")
    extract_features(
        create_clip(TINY, clip_path=folder / "clip.safetensors"),
        finder,
        sorted(finder.paths),
        folder / store,
        batch_size=4,
    )


def store_in(folder: Path) -> FeatureStore:
    "The feature store below a folder."
    return FeatureStore(next(folder.glob("*/store.json")).parent)


def kill_extraction(folder: Path, kills: int, seed: int = 0) -> Counter:
    "Kill extraction at random moments and run it again; returns how often it died before, between and after the rows."
    rng = random.Random(seed)
    died = Counter()
    log = folder / "log"
    for work in (lambda: prepare(folder), lambda: extract(folder, "whole")):
        undisturbed = child(work, log)
        assert undisturbed.status == 0, undisturbed.output
    expected = store_in(folder / "whole")
    for number in counted(kills, "extraction"):
        name = f"store{number}"
        moment = rng.uniform(0, 0.98 * undisturbed.seconds)
        child(lambda: extract(folder, name), log, after=moment)
        started = list((folder / name).glob("*/store.json"))
        before = store_in(folder / name).sums.copy() if started else np.zeros(IMAGES, int)
        resumed = child(lambda: extract(folder, name), log)
        where = f"kill {number} (seed {seed}, after {moment:.3f} s, {(before > 0).sum()} rows)"
        assert resumed.status == 0, f"{where}: {resumed.output[-3000:]}"
        after = store_in(folder / name)
        assert np.array_equal(after.sums[before > 0], before[before > 0]) or "encoded again" in resumed.output, (
            f"{where}: finished rows were extracted again without a warning"
        )
        for kind in ("whole", "local", "sums"):
            assert np.array_equal(getattr(after, kind), getattr(expected, kind)), f"{where}: {kind} differ"
        died[
            "before the first row"
            if not (before > 0).any()
            else "after the last row"
            if (before > 0).all()
            else "between"
        ] += 1
        shutil.rmtree(folder / name)
    return died
