"The feature store as processes leave it: killed while it is written, written by two ranks, damaged on disk."

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest
import torch
from error_sentence import sentence
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


def test_processes_that_start_together_make_one_store(photos):
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: forked(photos, EXTRACT, photos, "together"), range(4)))
    said = [process.stderr for process in done]
    assert all(process.returncode == 0 for process in done), said
    assert not any("damaged" in errors for errors in said), said
    assert sum("Waiting until it has finished" in errors for errors in said) >= 1, said
    assert_same(store_in(photos / "together"), store_in(photos / "undisturbed"))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    "Context in which this user cannot write to the folder; root becomes another user."
    outer = [path for path in (folder, *folder.parents) if path.stat().st_uid == os.geteuid() and path != Path("/")]
    modes = {path: path.stat().st_mode for path in outer}
    for path in outer:
        path.chmod(modes[path] | 0o055)
    for path in folder.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if is_root:
            os.setresuid(0, 0, 0)
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        for path, mode in modes.items():
            path.chmod(mode)


def test_a_read_only_store_is_read_and_an_incomplete_one_is_explained(photos, tmp_path):
    clip, finder = clip_of(photos), ImageFinder(photos / "images")
    first = extract_features(clip, finder, NAMES[:5], tmp_path / "data" / "features", workers=0)
    os.utime(photos / "images" / "03.png", (0, 0))  # another time, the same bytes
    with read_only(tmp_path / "data"):
        again = extract_features(clip, finder, NAMES[:5], tmp_path / "data" / "features", workers=0)
        assert again.folder == first.folder and not again.whole.flags.writeable
        message = sentence(extract_features, clip, finder, NAMES[:6], tmp_path / "data" / "features")
        assert "Permission denied" in message and "--features-dir" in message and "data/features" in message
    FeatureStore(first.folder, writable=True).sums[2] = 0
    with read_only(tmp_path / "data"):
        message = sentence(extract_features, clip, finder, NAMES[:5], tmp_path / "data" / "features")
    assert "read-only, and 1 of 5 images are missing" in message and "--features-dir" in message


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
