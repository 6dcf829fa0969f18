"FashionIQ: every count against the real annotation files, and the loader on the public download."

import pytest

from fashionern.data.datasets.fashioniq import CATEGORIES, EXPECTED, SPLIT_ENTRIES, SPLITS, UNIQUE_IMAGES, load_fashioniq  # noqa: E501
from fashionern.files import read_json

SUMS = {"train": (46609, 18000), "val": (15536, 6016), "test": (15538, 6118)}
NAMED_BY_VAL = {"dress": 2628, "shirt": 3089, "toptee": 2902}


@pytest.fixture(scope="session")
def fashioniq(annotations):
    return annotations("fashioniq")


@pytest.mark.parametrize("split", SPLITS)
def test_counts_of_every_category(fashioniq, split):
    data = load_fashioniq(fashioniq, split)
    assert data.counts() == EXPECTED[split]
    assert (sum(map(len, data.split_images.values())), len(data)) == SUMS[split]
    assert data.found == {"listed_twice": 0}


@pytest.mark.parametrize(
    "category, split, images, triplets",
    [
        ("dress", "train", 11452, 5985),
        ("shirt", "train", 19036, 5988),
        ("toptee", "train", 16121, 6027),
        ("dress", "val", 3817, 2017),
        ("shirt", "val", 6346, 2038),
        ("toptee", "val", 5373, 1961),
        ("dress", "test", 3818, 2024),
        ("shirt", "test", 6346, 2038),
        ("toptee", "test", 5374, 2056),
    ],
)
def test_expected_counts_are_those_of_the_files(fashioniq, category, split, images, triplets):
    "Read without the loader and compared with literal numbers, so that loader and table cannot share a mistake."
    names = read_json(fashioniq / "image_splits" / f"split.{category}.{split}.json")
    assert len(names) == len(set(names)) == images
    assert len(read_json(fashioniq / "captions" / f"cap.{category}.{split}.json")) == triplets


def test_split_entries_name_fewer_unique_images(fashioniq):
    names = []
    for split in SPLITS:
        for listed in load_fashioniq(fashioniq, split).split_images.values():
            names += listed
    assert (len(names), len(set(names))) == (77_683, 74_381) == (SPLIT_ENTRIES, UNIQUE_IMAGES)


@pytest.mark.parametrize("category", CATEGORIES)
def test_val_images_named_by_a_val_triplet(fashioniq, category):
    data = load_fashioniq(fashioniq, "val", (category,))
    assert len(data.named_images()) == NAMED_BY_VAL[category]
    assert set(data.named_images()) <= set(data.split_images[category])


def test_ids_are_unique_and_give_the_position_in_the_file(fashioniq):
    for split in SPLITS:
        data = load_fashioniq(fashioniq, split)
        assert len({t.id for t in data.triplets}) == len(data)
    triplet = next(t for t in load_fashioniq(fashioniq, "val").triplets if t.id == "shirt-val-17")
    entry = read_json(fashioniq / "captions" / "cap.shirt.val.json")[17]
    assert (triplet.reference, triplet.targets) == (entry["candidate"], (entry["target"],))
    assert triplet.captions == tuple(entry["captions"])


def test_test_split_has_no_targets(fashioniq):
    assert all(t.targets == () for t in load_fashioniq(fashioniq, "test").triplets)
