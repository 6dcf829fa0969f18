"Every small input of the shared folder `cases`, made from a real report, has its right result."

import json
from itertools import permutations

import numpy as np
import pytest

from fashionern.data.drawn.drawing import ATTRIBUTES
from fashionern.data.drawn.wording import value_forms
from fashionern.data.images import load_image
from fashionern.data.language.parser import ChangeParser, read_change
from fashionern.data.language.refusals import refusal_in
from fashionern.data.language.values import value_of
from fashionern.data.tables import match_rows
from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.words import learn_words, what_is_ignored
from fashionern.search.inventory import read_rows

COLOURS = ("red", "blue", "navy", "green")
PARSER = ChangeParser(
    {
        "colour": [value_of("colour", colour) for colour in COLOURS],
        "sleeve": [value_of("sleeve", sleeve) for sleeve in ("long", "short", "sleeveless")],
        "logo": [value_forms("logo", logo) for logo in ATTRIBUTES["dress"]["logo"]],
        "pattern": [value_forms("pattern", pattern) for pattern in ATTRIBUTES["dress"]["pattern"]],
    }
)


@pytest.fixture
def cases(shared):
    if not (shared / "cases").is_dir():
        pytest.skip(f"the shared files contain no cases: there is no folder {shared / 'cases'}")
    return shared / "cases"


def test_variants_of_shopify(cases):
    rows = read_rows(cases / "shopify_variants.csv")
    photos = ["wrap-dress-navy.jpg", "wrap-dress-sand.jpg", "wrap-dress-back.jpg", "linen-shirt.jpg"]
    matched = match_rows(photos, rows)
    of_photo = [rows[matched[photo]] for photo in photos]
    assert [row["Handle"] for row in of_photo] == ["wrap-dress"] * 3 + ["linen-shirt"], "2 products"
    assert {row["Title"] for row in of_photo[:3]} == {"Wrap Dress"}
    assert {row["Color"] for row in of_photo[:3]} == {"Navy | Sand"} and of_photo[3]["Size"] == "M"
    prices = [(row["Variant Price"], row.get("Variant Price (highest)")) for row in of_photo]
    assert prices == [(44.9, 49.9)] * 3 + [(1049.0, None)]
    assert [row["Variant SKU"] for row in of_photo] == ["30235 | 30236"] * 3 + ["00417"]
    assert all('"true to size"' in row["Body (HTML)"] for row in of_photo[:3])


def test_codes_stay_texts(cases):
    rows = read_rows(cases / "codes.csv")
    assert rows["a.jpg"] == {"gtin": "0012345678905", "size": "08", "sku": "1_000", "colour": "red"}
    assert rows["b.jpg"] == {"gtin": "0012345678912", "size": "10", "sku": "1e5", "colour": "blue"}


def test_an_unbalanced_quotation_mark(cases, capsys):
    assert list(read_rows(cases / "unbalanced_quote.csv")) == ["1.jpg", "3.jpg", "4.jpg"]
    assert "line 3 (unbalanced quotation marks)" in capsys.readouterr().err


def test_a_comma_in_a_middle_column(cases, capsys):
    assert read_rows(cases / "middle_comma.csv") == {"2.jpg": {"name": "Skirt", "price": 30.0, "note": "old"}}
    assert "line 2 (5 cells instead of 4" in capsys.readouterr().err


@pytest.mark.parametrize("third", ["c.jpg", "c_grande.jpeg"])
def test_paths(cases, third):
    rows = read_rows(cases / "paths.csv")
    photos = ["a.JPG", "b.png", third, "d.jpg"]
    matched = match_rows(photos, rows)
    assert [rows[matched[photo]]["colour"] for photo in photos] == ["red", "blue", "green", "black"]


def test_prices(cases, capsys):
    assert [row["price"] for row in read_rows(cases / "prices.csv").values()] == [1049, 1049, 20, 15]
    assert "column price is read as numbers, such as '$1,049.00' as 1049" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["grey16.png", "float.tif"])
def test_ramps_of_more_than_8_bits(cases, name):
    grey = np.asarray(load_image(cases / name))
    assert abs(grey.mean() - 127) < 3 and len(np.unique(grey)) > 60 and grey.min() < 8 and grey.max() > 247


def test_wordings_are_read(cases):
    wordings = json.loads((cases / "wordings.json").read_text())
    for frame in wordings["wordings"]:
        for old, new in permutations(COLOURS, 2):
            wanted = {"colour": new} | ({"sleeve": "long"} if "sleeves" in frame else {})
            assert read_change(PARSER, frame.format(old=old, new=new)).wanted == wanted, (frame, old, new)


def test_negations_are_read(cases):
    without = {"without a logo": {"logo": "no logo"}, "no stripes": {"pattern": "plain"}}
    for frame in json.loads((cases / "wordings.json").read_text())["negation"]:
        for old in COLOURS:
            text = frame.format(old=old)
            reading = read_change(PARSER, text)
            assert refusal_in(text) == text, "a model that reads it as a wish says so"
            if text in without:
                assert reading.wanted == without[text]
            else:
                assert reading.refused == {"colour": old} and not reading.wanted


def test_what_is_not_understood_is_said(cases):
    clip = create_clip(TINY)
    learn_words(clip, ["is red and has long sleeves", "do you have it in blue?", "without a logo"])
    for text in json.loads((cases / "wordings.json").read_text())["not_understood"]:
        assert what_is_ignored(clip, text, True), text
        assert what_is_ignored(clip, text, False)[0].endswith("so the results are arbitrary."), text
    assert what_is_ignored(clip, "is red", True) == []
