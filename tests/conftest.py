"Fixtures for the shared folder of real annotation files, which users' machines do not have."

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
