"What several tests need: the shared folder of real annotation files, which a user's machine does not have."

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    "The folder of shared files, FASHIONERN_SHARED or ../shared beside the project; skips where there is none."
    folder = (ROOT / os.environ.get("FASHIONERN_SHARED", "../shared")).resolve()
    if not folder.is_dir():
        pytest.skip(
            f"the shared files are not on this machine: no folder {folder} (set FASHIONERN_SHARED to have this test run)"
        )
    return folder


@pytest.fixture(scope="session")
def annotations(shared):
    "Dataset → the folder of its real annotation files; skips where there is none."

    def of(dataset: str) -> Path:
        folder = shared / "annotations" / dataset
        if not folder.is_dir():
            pytest.skip(f"the shared files hold no annotations of {dataset}: no folder {folder}")
        return folder

    return of
