"The feature store as processes leave it: killed while it is written, written by two ranks, damaged on disk."

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
    clip = create_clip(TINY, clip_path=folder / "clip.safetensors")
    extract_features(clip, finder, sorted(finder.paths), folder / sys.argv[2], batch_size=4, world=ranks)
"""
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
NAMES = [f"{i:02}" for i in range(61)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    "A folder with 61 photos, an encoder's weights, and an undisturbed store."
    folder = tmp_path_factory.mktemp("photos")
    (folder / "images").mkdir()
    for i, name in enumerate(NAMES):
        Image.effect_noise((40 + i, 50), 60).save(folder / "images" / f"{name}.png")
    Encoders(create_clip(TINY)).save(folder / "clip.safetensors")
    (folder / "extract.py").write_text(EXTRACT)
    extract_features(clip_of(folder), ImageFinder(folder / "images"), NAMES, folder / "undisturbed", workers=0)
    return folder


def clip_of(folder: Path):
    return create_clip(TINY, clip_path=folder / "clip.safetensors")


def store_in(folder: Path) -> FeatureStore:
    return FeatureStore(next(folder.glob("*/store.json")).parent)


def filled_rows(folder: Path) -> int:
    "How many rows of the store below the folder have features; 0 where there is no store yet."
    listing = next(folder.glob("*/store.json"), None)
    return 0 if listing is None else int((FeatureStore(listing.parent).sums > 0).sum())


def assert_same(a: FeatureStore, b: FeatureStore) -> None:
    assert a.names == b.names
    assert np.allclose(a.whole, b.whole, atol=1e-5)
    assert np.allclose(a.local, b.local, atol=1e-5)
    assert (a.sums > 0).all()
    assert (b.sums > 0).all()


def test_extraction_resumes_after_a_kill(photos):
    command = [sys.executable, str(photos / "extract.py"), str(photos), "killed"]
    process = subprocess.Popen(command, env=ENV, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not 8 <= filled_rows(photos / "killed") < 57:
            assert process.poll() is None, "extraction ended before it was killed"
            assert time.monotonic() < deadline, "extraction never began"
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    before = store_in(photos / "killed").sums.copy()
    assert 0 < (before > 0).sum() < 61
    resumed = forked(photos, EXTRACT, photos, "killed")
    assert resumed.returncode == 0, resumed.stderr
    after = store_in(photos / "killed")
    assert np.array_equal(after.sums[before > 0], before[before > 0]), "finished rows are kept"
    assert_same(after, store_in(photos / "undisturbed"))


def test_two_ranks_write_the_same_store(photos):
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*ranks, str(photos / "extract.py"), str(photos), "two"]
    subprocess.run(command, env=ENV, check=True, timeout=300, capture_output=True)
    assert_same(store_in(photos / "two"), store_in(photos / "undisturbed"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("store.json", b"{"),
        ("store.json", b'{"names": ["00"]}'),
        ("sums.npy", b""),
        ("whole.npy", b"\x93NUMPY nonsense"),
        ("photos.npy", None),  # deleted
    ],
)
def test_a_damaged_store_is_built_again(photos, capsys, file, content):
    clip, finder = clip_of(photos), ImageFinder(photos / "images")
    first = extract_features(clip, finder, NAMES[:5], photos / "broken", workers=0)
    whole = first.whole.copy()
    capsys.readouterr()
    if content is None:
        (first.folder / file).unlink()
    else:
        (first.folder / file).write_bytes(content)
    rebuilt = extract_features(clip, finder, NAMES[:5], photos / "broken", workers=0)
    assert np.allclose(rebuilt.whole, whole, atol=1e-5)
    assert rebuilt.folder == first.folder
    assert str(first.folder) in capsys.readouterr().err


def test_another_encoder_does_not_read_these_features(photos):
    torch.manual_seed(5)
    other = create_clip(TINY)
    before, finder = store_in(photos / "undisturbed"), ImageFinder(photos / "images")
    store = extract_features(other, finder, ["00", "01"], photos / "undisturbed", workers=0)
    assert store.folder != before.folder
    assert not np.allclose(store.whole, before.whole[:2], atol=1e-2)
