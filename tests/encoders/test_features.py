"The feature store as whole processes leave it: killed in the middle, shared by two ranks."

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import forked
from PIL import Image

from fashionern.data.images import ImageFinder
from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.feature_store import FeatureStore, extract_features
from fashionern.encoders.tme import Encoders

EXTRACT = """
import sys
from pathlib import Path
from fashionern.data.images import ImageFinder
from fashionern.distributed import world
from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.feature_store import extract_features
folder = Path(sys.argv[1])
with world("cpu") as ranks:
    finder = ImageFinder(folder / "images")
    extract_features(create_clip(TINY, clip_path=folder / "clip.safetensors"), finder, sorted(finder.paths), folder / sys.argv[2], batch_size=4, world=ranks)
"""
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    "A folder with 61 photos, an encoder's weights, and an undisturbed store of them."
    folder = tmp_path_factory.mktemp("photos")
    (folder / "images").mkdir()
    for i in range(61):
        Image.effect_noise((40 + i, 50), 60).save(folder / "images" / f"{i:02}.png")
    Encoders(create_clip(TINY)).save(folder / "clip.safetensors")
    (folder / "extract.py").write_text(EXTRACT)
    extract_features(clip_of(folder), ImageFinder(folder / "images"), [f"{i:02}" for i in range(61)], folder / "undisturbed", workers=0)
    return folder


def clip_of(folder: Path):
    return create_clip(TINY, clip_path=folder / "clip.safetensors")


def store_in(folder: Path) -> FeatureStore:
    return FeatureStore(next(folder.glob("*/store.json")).parent)


def same(a: FeatureStore, b: FeatureStore) -> bool:
    return a.names == b.names and all(np.allclose(getattr(a, k), getattr(b, k), atol=1e-5) for k in ("whole", "local")) and bool((a.sums > 0).all() and (b.sums > 0).all())


def test_extraction_goes_on_after_a_kill(photos):
    command = [sys.executable, str(photos / "extract.py"), str(photos), "killed"]
    process = subprocess.Popen(command, env=ENV, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not (made := list((photos / "killed").glob("*/store.json"))) or not 8 <= int((FeatureStore(made[0].parent).sums > 0).sum()) < 57:
            assert process.poll() is None and time.monotonic() < until, "it ended, or never began"
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    before = store_in(photos / "killed").sums.copy()
    assert 0 < (before > 0).sum() < 61
    again = forked(photos, EXTRACT, photos, "killed")
    assert again.returncode == 0, again.stderr
    after = store_in(photos / "killed")
    assert np.array_equal(after.sums[before > 0], before[before > 0]), "what was made is kept"
    assert same(after, store_in(photos / "undisturbed"))


def test_two_ranks_make_the_same_store(photos):
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run([*ranks, str(photos / "extract.py"), str(photos), "two"], env=ENV, check=True, timeout=300, capture_output=True)
    assert same(store_in(photos / "two"), store_in(photos / "undisturbed"))


def test_a_store_without_its_listing_or_with_strange_arrays_is_made_anew(photos, capsys):
    clip, finder = clip_of(photos), ImageFinder(photos / "images")
    names = [f"{i:02}" for i in range(5)]
    first = extract_features(clip, finder, names, photos / "broken", workers=0)
    whole = first.whole.copy()
    for file, content in (("store.json", b"{"), ("store.json", b'{"names": ["00"]}'), ("sums.npy", b""), ("whole.npy", b"\x93NUMPY nonsense"), ("photos.npy", None)):
        (first.folder / file).unlink() if content is None else (first.folder / file).write_bytes(content)
        again = extract_features(clip, finder, names, photos / "broken", workers=0)
        assert np.allclose(again.whole, whole, atol=1e-5) and again.folder == first.folder
        assert str(first.folder) in capsys.readouterr().err


def test_another_encoder_reads_no_features_of_this_one(photos):
    torch.manual_seed(5)
    other = create_clip(TINY)
    before, finder = store_in(photos / "undisturbed"), ImageFinder(photos / "images")
    store = extract_features(other, finder, ["00", "01"], photos / "undisturbed", workers=0)
    assert store.folder != before.folder and not np.allclose(store.whole, before.whole[:2], atol=1e-2)
