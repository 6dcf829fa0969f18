"Each composer's notebook says in its first lines what the mark of its rows says."

import json
from pathlib import Path

import pytest

from fashionern.models.composers.base import COMPOSERS, SOURCES
from fashionern.models.registry import list_models, source_of

NOTEBOOKS = Path(__file__).resolve().parents[2] / "nbs" / "models" / "composers"
FIRST_WORDS = {"published": "**Published**: ", "after": "After ", "ours": "**This project's own design.**"}


def prose(module: str) -> str:
    "The first text below a notebook's title."
    (path,) = NOTEBOOKS.glob(f"[0-9][0-9]_{module}.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"][1]


@pytest.mark.parametrize("name", [name for name in COMPOSERS if COMPOSERS[name].source != "baseline"])
def test_the_notebook_says_what_the_mark_says(name):
    composer = COMPOSERS[name]
    if not composer.__module__.startswith("fashionern.models.composers."):
        pytest.skip("registered by another test")
    text = prose(composer.__module__.rpartition(".")[2])
    assert FIRST_WORDS[composer.source] in text[:1100], text[:300]
    if composer.source == "after":
        assert text.startswith("After ") and "**Published**: the module" not in text
        author, year = composer.paper.split()
        assert author in text[:200] and year in text[:400], "the paper of the mark"
        assert "**Different" in text or "Different here" in "".join(prose_of_all(composer)), "it states what differs"
    assert (composer.source in ("published", "after")) == bool(composer.paper)


def prose_of_all(composer: type) -> list[str]:
    (path,) = NOTEBOOKS.glob(f"[0-9][0-9]_{composer.__module__.rpartition('.')[2]}.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


def test_every_model_has_a_mark():
    for name in list_models():
        mark = source_of(name)
        assert mark.partition(" ")[0] in SOURCES and (mark.partition(" ")[0] == "after") == (" " in mark), name


@pytest.mark.parametrize(
    "name, mark",
    [
        ("combiner", "published"),
        ("combiner@lengths=10x8", "published"),
        ("artemis", "published"),
        ("dvr@ffn=64,lengths=published", "published"),
        ("dvr@mask_padding", "after Chen 2024"),
        ("clip+dvr+identity", "after Chen 2024"),
        ("fashionern", "after Chen 2024"),
        ("tme+combiner+refine", "ours"),
        ("vtf", "ours"),
        ("amc", "after Zhu 2023"),
        ("sum@text_weight=0.7", "baseline"),
    ],
)
def test_marks(name, mark):
    assert source_of(name) == mark
