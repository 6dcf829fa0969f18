"Fashion200k in a hand-written layout: siblings by brute force, the same draws in all processes, positives, bad input."

import hashlib
import math
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from error_sentence import sentence
from PIL import Image

from fashionern.data.datasets.fashion200k import CATEGORIES, SiblingPairs, clean_description, load_fashion200k, modification, parents  # noqa: E501
from fashionern.data.triplets import apply_missing

WORDS = ("red", "layered", "a", "mini", "min", "lace", "navy", "red-ish", "dress", "gown")


def write_labels(root: Path, category: str, split: str, rows, line_end: str = "\n") -> None:
    "Write one label file from (path, description) pairs."
    path = root / "labels" / f"{category}_{split}_detect_all.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{p}\t{0.5 + i}\t{text}{line_end}" for i, (p, text) in enumerate(rows)).encode())


def write_layout(root: Path, train, test, queries, line_end: str = "\n") -> Path:
    "Write a copy with dresses only."
    write_labels(root, "dress", "train", train, line_end)
    write_labels(root, "dress", "test", test, line_end)
    (root / "test_queries.txt").write_bytes("".join(f"{a} {b}{line_end}" for a, b in queries).encode())
    return root


def jpeg(kind: str, number: int, photo: int = 0) -> str:
    return f"women/{kind}/day_{kind}/{number}/{number}_{photo}.jpeg"


def name(path: str) -> str:
    return path.removesuffix(".jpeg")


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(path)


KINDS = [f"{colour} {length} dress" for colour in ("red", "blue", "green") for length in ("mini", "mini", "maxi")]
TRAIN = [(jpeg("dresses", i // 2, i % 2), text) for i, text in enumerate(KINDS)]
TEST = [
    (jpeg("dresses", 50 + i), f"{c} dress") for i, c in enumerate(("black", "white", "white", "navy", "white", "black"))
]
QUERIES = [(TEST[0][0], TEST[2][0]), (TEST[3][0], TEST[0][0]), (TEST[1][0], TEST[4][0]), (TEST[0][0], TEST[3][0])]


@pytest.fixture
def root(tmp_path) -> Path:
    return write_layout(tmp_path / "f200k", TRAIN, TEST, QUERIES)


# ---- siblings by brute force


def rest(description: str, word: str) -> str:
    left = "".join(description.split(word))
    kept = ""
    while left:  # two blanks are read together and become one
        taken = 2 if left.startswith("  ") else 1
        kept += left[0]
        left = left[taken:]
    return kept.strip()


def common_parents(one: str, two: str) -> set[str]:
    "The parents that two descriptions share, by the definition."
    rests = [{rest(text, word) for word in re.findall(r"\S+", text)} for text in (one, two)]
    return rests[0] & rests[1]


def probabilities(descriptions: dict[str, str], reference: str) -> dict[str, float]:
    "Each image's probability as the target of `reference`: over shared parents, their descriptions and images."
    mine = descriptions[reference]
    others = set(descriptions.values()) - {mine}
    families: dict[str, list[str]] = {}
    for other in others:
        for parent in common_parents(mine, other):
            families.setdefault(parent, []).append(other)
    found = Counter()
    for siblings in families.values():
        for sibling in siblings:
            images = [n for n, text in descriptions.items() if text == sibling]
            for image in images:
                found[image] += 1 / len(families) / len(siblings) / len(images)
    return dict(found)


def random_descriptions(seed: int, count: int) -> dict[str, str]:
    "Images described by one to four words, some of them part of others, some repeated, and one without a description."
    rng = np.random.default_rng(seed)
    texts = {f"i{n}": " ".join(rng.choice(WORDS, rng.integers(1, 5))) for n in range(count)}
    return texts | {"none": "", "far": "wool tweed coat with hood"}


@pytest.mark.parametrize("seed", range(6))
def test_drawn_pairs_are_siblings_by_the_definition(seed):
    texts = random_descriptions(seed, 60)
    expected = {n: probabilities(texts, n) for n in texts}
    sampler = SiblingPairs(texts)
    for epoch in range(300):
        assert all(t.target in expected[t.reference] for t in sampler.draw(seed, epoch))
    assert [t.reference for t in sampler.draw(seed, 0)] == [n for n in texts if expected[n]]
    assert sampler.without_siblings == sum(not found for found in expected.values()) >= 2


@pytest.mark.parametrize("seed", range(3))
def test_every_image_is_drawn_with_its_probability(seed):
    texts = random_descriptions(10 + seed, 14)
    sampler = SiblingPairs(texts)
    epochs = 4000
    counted = Counter()
    for epoch in range(epochs):
        counted.update((t.reference, t.target) for t in sampler.draw(seed, epoch))
    for reference in texts:
        expected = probabilities(texts, reference)
        assert {m for n, m in counted if n == reference} <= expected.keys()
        for image, p in expected.items():  # six standard deviations: two in a billion
            assert abs(counted[reference, image] - epochs * p) <= 6 * math.sqrt(epochs * p * (1 - p)), (
                reference,
                image,
                p,
            )


def test_parents_follow_the_definition():
    texts = [*random_descriptions(99, 300).values(), "black red red dress", "a  b", "a\u00a0b c", "red", "redred red"]
    for text in texts:
        assert set(parents(text)) == {rest(text, w) for w in re.findall(r"\S+", text)}
        assert len(parents(text)) == len(set(parents(text)))


def test_a_word_twice_in_a_row_leaves_a_gap_as_in_tirg():
    "TIRG turns two blanks into one in a single pass, so three become two; its runs drew from these siblings."
    assert "a  b" in parents("a black black b") and "a b" not in parents("a black black b")
    texts = {"twice": "a black black b", "once": "a black b", "other": "a blue b"}
    drawn = {(t.reference, t.target) for epoch in range(50) for t in SiblingPairs(texts).draw(0, epoch)}
    assert drawn == {("once", "other"), ("other", "once")}


def test_the_modification_names_words_of_the_two_descriptions():
    texts = [t for t in random_descriptions(7, 60).values() if t]
    for one in texts:
        for two in texts:
            old, new = modification(one, two).removeprefix("replace ").split(" with ")
            lost = [w for w in one.split() if w not in two.split()]
            gained = [w for w in two.split() if w not in one.split()]
            assert (old, new) == ((lost or one.split()[-1:])[0], (gained or two.split()[-1:])[0])


# ---- the training set


def test_every_reference_keeps_its_own_path(root):
    "Several images share a description; each is a reference under its own path and none replaces another."
    data = load_fashion200k(root, "train")
    assert [t.reference for t in data.triplets] == [name(p) for p, _ in TRAIN] == data.split_images["all"]
    described = {name(p): text for p, text in TRAIN}
    assert len(set(described.values())) < len(described)
    for epoch in range(5):
        for t in data.epoch(1, epoch).triplets:
            assert t.captions == (modification(described[t.reference], described[t.target]),)
            assert described[t.reference] != described[t.target] and t.category == "all"
            assert t.id == f"fashion200k-train-{data.split_images['all'].index(t.reference)}"


def test_found_of_the_training_set(tmp_path):
    again = [TRAIN[0], (TRAIN[1][0].replace(".jpeg", ".jpg"), TRAIN[1][1])]
    train = [*TRAIN, *again, (jpeg("dresses", 90), ""), (jpeg("dresses", 91), "odd wool coat")]
    data = load_fashion200k(write_layout(tmp_path, train, TEST, QUERIES), "train")
    assert data.found == {"categories": ["dress"], "listed_twice": 2, "empty_descriptions": 1, "without_siblings": 2}
    assert (
        data.counts() == {"all": (len(TRAIN) + 2, len(TRAIN))} and data.name == data.default_protocol == "fashion200k"
    )
    assert data.descriptions == {name(p): [text] for p, text in (*TRAIN, train[-1])}


def test_warm_up_descriptions_are_raw_and_triplets_use_cleaned_ones(tmp_path):
    train = [("women/a.jpeg", "dr. who & co"), ("women/b.jpeg", "dr. who ? co")]
    data = load_fashion200k(write_layout(tmp_path, train, TEST, QUERIES), "train")
    assert data.descriptions == {"women/a": ["dr. who & co"], "women/b": ["dr. who ? co"]}
    assert data.triplets[0].captions == ("replace andmark with questionmark",)


DRAW = """
import hashlib, numpy, random, sys
from fashionern.data.datasets.fashion200k import load_fashion200k
numpy.random.seed(int(sys.argv[2])); random.seed(sys.argv[2])
data = load_fashion200k(sys.argv[1], "train")
print(*(hashlib.sha256(repr(data.epoch(3, e).triplets).encode()).hexdigest() for e in range(4)))
"""


def test_processes_draw_the_same_pairs(root):
    data = load_fashion200k(root, "train")
    here = [hashlib.sha256(repr(data.epoch(3, e).triplets).encode()).hexdigest() for e in range(4)]
    for hash_seed in ("0", "1", "4711"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", DRAW, str(root), hash_seed]
        there = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert there.stdout.split() == here
    assert len(set(here)) == 4


def test_a_draw_depends_only_on_seed_and_epoch(root):
    sampler = load_fashion200k(root, "train").sampler
    first = sampler.draw(5, 2)
    copy = pickle.loads(pickle.dumps(sampler))
    sampler.draw(5, 3)
    assert sampler.draw(5, 2) == first == copy.draw(5, 2) == load_fashion200k(root, "train").sampler.draw(5, 2)
    assert len({repr(sampler.draw(s, e)) for s in range(4) for e in range(4)}) == 16
    assert {len(sampler.draw(0, e)) for e in range(10)} == {len(TRAIN)}


def test_missing_images_are_never_drawn(root):
    lost = {name(TRAIN[0][0]), name(TRAIN[4][0])}
    for path, _ in TRAIN:
        if name(path) not in lost:
            photo(root / path)
    data = load_fashion200k(root, "train")
    assert "2 of 9 images of fashion200k (train) are missing" in sentence(apply_missing, data)
    kept = apply_missing(data, "drop")
    assert kept.found["queries"] == len(kept) == 7 and kept.found["queries_expected"] == 9 and kept.complete is data
    places = {t.reference: t.id for t in data.triplets}
    for epoch in range(30):
        triplets = kept.epoch(0, epoch).triplets
        assert not any(t.reference in lost or t.target in lost for t in triplets) and len(triplets) == 7
        assert all(t.id == places[t.reference] for t in triplets)
    drawn = set()
    for epoch in range(30):
        drawn |= {t.target for t in data.epoch(0, epoch).triplets}
    assert drawn >= lost


def test_without_equals_a_sampler_over_the_other_images():
    texts = random_descriptions(3, 50)
    absent = set(list(texts)[::3])
    left = SiblingPairs(texts).without(absent)
    fresh = SiblingPairs({n: t for n, t in texts.items() if n not in absent})
    for one, other in zip(left.draw(1, 1), fresh.draw(1, 1), strict=True):
        assert (one.reference, one.target, one.captions) == (other.reference, other.target, other.captions)
    assert left.without_siblings == fresh.without_siblings
    part = {n for n in absent if n < "i3"}
    step = SiblingPairs(texts).without(part).without(absent - part)
    assert part and absent - part
    assert step.draw(1, 1) == left.draw(1, 1)


# ---- the test set


def test_all_images_with_the_targets_description_are_positives(root):
    data = load_fashion200k(root, "test")
    described = {name(p): text for p, text in TEST}
    for t, (reference, target) in zip(data.triplets, QUERIES, strict=True):
        assert t.reference == name(reference) and t.targets[0] == name(target) and t.category == "all"
        assert len(t.targets) == len(set(t.targets))
        assert set(t.targets) == {n for n, text in described.items() if text == described[name(target)]}
        assert t.captions == (modification(described[t.reference], described[t.targets[0]]),)
    assert [len(t.targets) for t in data.triplets] == [3, 2, 3, 1] and data.found["reference_is_right"] == 1
    assert data.sampler is None and data.epoch(1, 2) is data


def test_positives_share_the_cleaned_description(tmp_path):
    texts = {"a": "red dress", "b": "dr. dress", "c": " drdotmark dress ", "d": "dr dress"}
    test = [(f"women/{n}.jpeg", text) for n, text in texts.items()]
    data = load_fashion200k(write_layout(tmp_path, TRAIN, test, [("women/a.jpeg", "women/b.jpeg")]))
    assert data.triplets[0].targets == ("women/b", "women/c")


def test_val_means_test(root):
    val = load_fashion200k(root, "val")
    test = load_fashion200k(root, "test")
    assert val.split == test.split == "test" and load_fashion200k(root).split == "test"
    assert val.triplets == test.triplets and val.split_images == test.split_images and val.found == test.found


def test_a_missing_positive_leaves_the_others(root):
    for path, _ in TEST:
        if path != TEST[2][0]:
            photo(root / "images" / path)
    data = apply_missing(load_fashion200k(root), "drop")
    assert data.found["queries"] == data.found["queries_expected"] == 4
    assert data.triplets[0].targets == (name(TEST[1][0]), name(TEST[4][0])) and len(data.split_images["all"]) == 5


def test_categories(root):
    tops = [("women/tops/1_0.jpeg", "white dress"), ("women/tops/2_0.jpeg", "white top")]
    write_labels(root, "top", "train", [("women/tops/8_0.jpeg", "red mini top")])
    write_labels(root, "top", "test", tops)
    queries = [*QUERIES, (TEST[0][0], tops[0][0]), (tops[0][0], tops[1][0])]
    (root / "test_queries.txt").write_text("".join(f"{a} {b}\n" for a, b in queries))
    both = load_fashion200k(root)
    assert both.found["categories"] == ["dress", "top"] and both.found["queries_of_other_categories"] == 0
    assert len(both) == 6 and name(tops[0][0]) in both.triplets[0].targets
    assert both.found["reference_is_right"] == 1 and both.counts() == {"all": (8, 6)}
    dresses = load_fashion200k(root, "test", "dress")
    assert dresses.found["categories"] == ["dress"] and dresses.found["queries_of_other_categories"] == 2
    assert len(dresses) == 4 and name(tops[0][0]) not in dresses.triplets[0].targets
    only = load_fashion200k(root, "test", ("top", "top"))
    assert [t.id for t in only.triplets] == ["fashion200k-test-5"], "the id gives the position in the file"
    swapped = load_fashion200k(root, "train", ["top", "dress"])
    assert swapped.found["categories"] == ["top", "dress"] and swapped.split_images["all"][0] == "women/tops/8_0"
    assert "red mini dress" in swapped.descriptions[name(TRAIN[0][0])] and swapped.found["without_siblings"] == 0


# ---- unusual files


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r\n\r\n"])
def test_blanks_and_letters_of_any_kind_in_paths(tmp_path, line_end):
    test = [
        ("women/robe d'été/a b/1 0.jpeg", "white dress"),
        ("women/ドレス/2_0.JPEG", "black dress"),
        ("./women/v1.2/3_0.jpeg", "black dress"),
        ("women\\tops\\4_0.jpeg", "black gown"),
    ]
    queries = [
        ("women/robe d'été/a b/1 0.jpeg", "women/ドレス/2_0.JPEG"),
        ("women/ドレス/2_0", "women/robe d'été/a b/1 0"),
        ("women/v1.2/3_0.jpeg", " women/tops/4_0.jpeg"),
    ]
    data = load_fashion200k(write_layout(tmp_path, TRAIN, test, queries, line_end))
    assert data.split_images["all"] == [
        "women/robe d'été/a b/1 0",
        "women/ドレス/2_0",
        "women/v1.2/3_0",
        "women/tops/4_0",
    ]
    assert [(t.reference, t.targets) for t in data.triplets] == [
        ("women/robe d'été/a b/1 0", ("women/ドレス/2_0", "women/v1.2/3_0")),
        ("women/ドレス/2_0", ("women/robe d'été/a b/1 0",)),
        ("women/v1.2/3_0", ("women/tops/4_0",)),
    ]
    assert data.triplets[2].captions == ("replace dress with gown",) and data.found["listed_twice"] == 0
    for path in (
        "women/robe d'été/a b/1 0.jpeg",
        "women/ドレス/2_0.JPEG",
        "women/v1.2/3_0.jpeg",
        "women/tops/4_0.jpeg",
    ):
        photo(tmp_path / path)
    assert data.images.missing(data.all_images()) == []


def test_descriptions_may_contain_anything_but_tabs_and_line_feeds(tmp_path):
    odd = ["red\u2028mini dress", "red\x0bmini  dress", "red\x85mini\u00a0 dress", 'blue "mini" dress']
    odd += ["blå “mini” dress 👗", "red\rmini dress"]
    train = [(f"women/{i}_0.jpeg", text) for i, text in enumerate(odd)]
    data = load_fashion200k(write_layout(tmp_path, train, TEST, QUERIES), "train")
    assert data.descriptions == {f"women/{i}_0": [text] for i, text in enumerate(odd)}
    drawn = {data.epoch(0, epoch).triplets[0].target for epoch in range(60)}
    assert data.triplets[0].reference == "women/0_0" and drawn >= {"women/1_0", "women/5_0"}
    assert "women/2_0" not in drawn, "as in TIRG's code, only plain blanks are collapsed"


def test_long_descriptions_and_a_byte_order_mark(tmp_path):
    long = " ".join(f"word{i:03}" for i in range(400))
    train = [("women/1.jpeg", f"{long} red"), ("women/2.jpeg", f"{long} blue"), ("women/3.jpeg", "red")]
    write_layout(tmp_path, train, TEST, QUERIES)
    path = tmp_path / "labels" / "dress_train_detect_all.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().rstrip(b"\n"))
    data = load_fashion200k(tmp_path, "train")
    assert data.split_images["all"] == ["women/1", "women/2", "women/3"] and data.found["without_siblings"] == 1
    assert [t.captions for t in data.triplets] == [("replace red with blue",), ("replace blue with red",)]


def test_cleaning_twice_changes_nothing():
    for text in ("a.b", "?", " & ", "*.*", "dress"):
        assert clean_description(clean_description(text)) == clean_description(text)


# ---- errors

GOOD = "women/a/1_0.jpeg\t0.9\tred dress\n"


@pytest.mark.parametrize(
    "text, words",
    [
        (GOOD + "women/a/2_0.jpeg 0.9 blue dress\n", ("line 2", "has 1 of three columns")),
        (GOOD + "\n\nwomen/a/2_0.jpeg\t0.9\n", ("line 4", "has 2 of three columns")),
        (GOOD + "women/a/2_0.jpeg\t0.9\tblue\tdress\n", ("line 2", "has 4 of three columns")),
        (GOOD + "\t0.9\tblue dress\n", ("line 2", "no image path")),
        (GOOD + " \t0.9\tblue dress\r\n", ("line 2", "no image path")),
        (GOOD + "\t\t\n", ("line 2", "no image path")),
        (GOOD + "women/a/2_0.jpeg\tblue dress\t0.9\n", ("line 2", "'blue dress'", "must be a number")),
        (GOOD + "women/a/2_0.jpeg\t\tblue dress\n", ("line 2", "''", "must be a number")),
        (GOOD + "women/a/2_0.jpeg\tnan\tblue dress\n", ("line 2", "'nan'", "must be a number")),
        (
            GOOD + "women/a/1_0.jpeg\t0.9\tblue dress\n",
            ("line 1 and", "line 2 describe", "'women/a/1_0'", "'red dress' and 'blue dress'", "Remove the wrong line"),
        ),
        ("", ("is empty", "Download it again")),
        ("\ufeff\n \r\n", ("is empty",)),
    ],
)
def test_bad_label_files(root, text, words):
    path = root / "labels" / "dress_train_detect_all.txt"
    path.write_text(text, encoding="utf-8", newline="")
    said = sentence(load_fashion200k, root, "train")
    assert str(path) in said and all(word in said for word in words), said
    assert load_fashion200k(root, "test")


def test_two_files_that_describe_one_image_differently(root):
    write_labels(root, "skirt", "train", [("women/x.jpeg", "a skirt"), (TRAIN[3][0], "not a dress")])
    write_labels(root, "skirt", "test", [("women/y.jpeg", "a skirt")])
    said = sentence(load_fashion200k, root, "train")
    assert (
        f"dress_train_detect_all.txt, line {3 + 1} and " in said
        and "skirt_train_detect_all.txt, line 2 describe" in said
    )


def test_files_that_are_not_text(root):
    for path, split in ((root / "labels" / "dress_train_detect_all.txt", "train"), (root / "test_queries.txt", "test")):
        path.write_bytes("women/1.jpeg\t1\trobe d'été\n".encode("latin-1"))
        said = sentence(load_fashion200k, root, split)
        assert str(path) in said and "is not UTF-8 text" in said and "Save it as UTF-8" in said


@pytest.mark.parametrize(
    "line, words",
    [
        (f"{TEST[0][0]} women/gone.jpeg", ("names no such pair", "women/gone.jpeg")),
        (f"women/gone.jpeg {TEST[0][0]}", ("names no such pair",)),
        (f"{TEST[0][0]} {TRAIN[0][0]}", ("names no such pair", "same copy")),
        (TEST[0][0], ("names no such pair",)),
        (f"{TEST[0][0]} {TEST[1][0]} {TEST[2][0]}", ("names no such pair",)),
    ],
)
def test_bad_queries(root, line, words):
    path = root / "test_queries.txt"
    path.write_text(f"{QUERIES[0][0]} {QUERIES[0][1]}\n\n{line}\n")
    said = sentence(load_fashion200k, root)
    assert f"{path}, line 3" in said and "remove the line" in said and all(word in said for word in words), said
    assert load_fashion200k(root, "train")


def test_a_query_that_can_be_split_in_two_places(tmp_path):
    test = [("x", "red dress"), ("x x", "blue dress")]
    write_layout(tmp_path, TRAIN, test, [("x", "x x")])
    said = sentence(load_fashion200k, tmp_path)
    assert "line 1" in said and "is ambiguous" in said


@pytest.mark.parametrize("empty", [0, 1])
def test_a_query_with_an_empty_description(tmp_path, empty):
    test = [(f"women/{i}.jpeg", "" if i == empty else "red dress") for i in (0, 1)]
    said = sentence(load_fashion200k, write_layout(tmp_path, TRAIN, test, [("women/0.jpeg", "women/1.jpeg")]))
    assert "test_queries.txt, line 1" in said and f"'women/{empty}'" in said and "description is empty" in said


def test_missing_files(root, tmp_path):
    assert "no dataset folder" in sentence(load_fashion200k, tmp_path / "none")
    (tmp_path / "bare").mkdir()
    said = sentence(load_fashion200k, tmp_path / "bare")
    assert "has no label file to read" in said and "labels/" in said
    assert "has no label file to read" in sentence(load_fashion200k, root, "train", ())
    both = "labels/skirt_train_detect_all.txt, labels/skirt_test_detect_all.txt"
    assert both in sentence(load_fashion200k, root, "val", "skirt")
    write_labels(root, "skirt", "test", [("women/y.jpeg", "a skirt")])
    for split in ("train", "test"):
        assert "is missing labels/skirt_train_detect_all.txt. " in sentence(load_fashion200k, root, split)
    assert load_fashion200k(root, "train", "dress")
    (root / "test_queries.txt").unlink()
    assert "is missing test_queries.txt" in sentence(load_fashion200k, root, "test", "dress")
    assert load_fashion200k(root, "train", "dress"), "training needs no queries"


def test_unknown_names(root):
    assert "'train'" in sentence(load_fashion200k, root, "trian")
    said = sentence(load_fashion200k, root, "train", ("dress", "jackets"))
    assert "'jacket'" in said and "category" in said
    assert CATEGORIES == ("dress", "jacket", "pants", "skirt", "top")


def test_no_siblings_and_no_queries(tmp_path, root):
    write_labels(root, "dress", "train", [("women/1.jpeg", "red wool dress"), ("women/2.jpeg", "blue silk gown")])
    said = sentence(load_fashion200k, root, "train")
    assert "differ in one word" in said and "dress" in said
    (root / "test_queries.txt").write_text("\n")
    assert "test_queries.txt is empty" in sentence(load_fashion200k, root)
