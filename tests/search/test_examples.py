"Example texts of an index: measured when it is built, again when it changes, and never ones that do not work."

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fashionern.data.drawn.drawing import draw_file
from fashionern.data.drawn.garments import sample_designs
from fashionern.encoders.clip import TINY
from fashionern.search import indexing
from fashionern.search.config import parse_index
from fashionern.search.examples import MAX_EXAMPLES, MIN_SHARE, measure_examples, sample_labels
from fashionern.search.inventory import open_store
from fashionern.search.query import Query
from fashionern.search.searcher import Searcher
from fashionern.search.stores.base import Photo


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Forty drawn dresses and their table."
    folder = tmp_path_factory.mktemp("examples")
    (folder / "photos").mkdir()
    designs = sample_designs("dress", 40, np.random.default_rng(0))
    for i, design in enumerate(designs):
        draw_file((design, (0, i), 64, folder / "photos" / f"{i:02}.png"))
    rows = {f"{i:02}.png": vars(design) for i, design in enumerate(designs)}
    (folder / "table.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def ern_index(folder, command: str, *flags: str) -> int:
    place = "--out" if command == "build" else "--index"
    given = ("--images", f"{folder}/photos", "--device", "cpu", place, f"{folder}/index", *flags)
    return indexing.run_index(parse_index([command, *given]))


def test_an_index_with_a_table_stores_examples_that_work(folder, capsys):
    assert ern_index(folder, "build", "--encoder", TINY, "--table", f"{folder}/table.json") == 0
    said = capsys.readouterr().out
    store = open_store(folder / "index")
    examples = store.examples()
    store.close()
    assert examples is not None and len(examples) <= MAX_EXAMPLES
    assert ("examples for the search page" in said) if examples else ("no examples for the search page" in said)
    searcher = Searcher.load(folder / "index", device="cpu")
    assert measure_examples(searcher.retriever, searcher.store) == examples, "the same again"
    for example in examples:  # each works from its photo, also through the searcher
        assert example["share"] >= MIN_SHARE and example["share"] > example["chance"]
        hits = searcher.search_many([Query(name=example["name"], text=example["text"], k=8)])[0]
        right = sum(hit.columns[example["attribute"]] == example["value"] for hit in hits) / 8
        assert right >= example["share"] - 1e-4
    searcher.store.close()


def test_names_of_products_are_not_asked_for():
    columns = [{"title": f"{colour} dress", "colour": colour} for colour in ("red", "blue") for _ in range(4)]
    photos = {f"{i}.png": Photo(f"{i}.png", "", columns=row) for i, row in enumerate(columns)}
    store = SimpleNamespace(marks=lambda: photos, get=lambda names: [photos[name] for name in names])
    labels = sample_labels(store)
    assert labels is not None and labels.attributes == ("colour",)


def test_examples_are_measured_again_only_after_a_change(folder, monkeypatch):
    measured = []
    found = [{"text": "is red", "name": "00.png", "share": 0.75, "chance": 0.1}]
    monkeypatch.setattr(indexing, "measure_examples", lambda *_: measured.append(1) or found)
    Image.new("RGB", (64, 64), "red").save(folder / "photos" / "new.png")
    assert ern_index(folder, "update") == 0 and len(measured) == 1
    assert ern_index(folder, "update") == 0 and len(measured) == 1
    (folder / "photos" / "new.png").unlink()
    assert ern_index(folder, "update") == 0 and len(measured) == 2
    store = open_store(folder / "index")
    assert store.examples() == found
    store.close()
