"CIRR: every count against the real annotation files, the groups of six, and errors about bad files."

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from fashionern.data.datasets.cirr import EXPECTED, GROUP_SIZE, SPLITS, load_cirr
from fashionern.data.triplets import apply_missing, join_captions
from fashionern.errors import ErnError
from fashionern.files import read_json, write_json

IMAGES = {"train": 16939, "val": 2297, "test1": 2315}
PAIRS = {"val": 4181, "test1": 4148}


@pytest.fixture(scope="session")
def cirr(annotations):
    return annotations("cirr")


def captions_of(root: Path, split: str) -> Path:
    return root / "captions" / f"cap.rc2.{split}.json"


def images_of(root: Path, split: str) -> Path:
    return root / "image_splits" / f"split.rc2.{split}.json"


def message(root, split: str = "val") -> str:
    "The message of the `ErnError` that loading raises: one line that names the folder."
    with pytest.raises(ErnError) as caught:
        load_cirr(root, split)
    assert "\n" not in str(caught.value) and str(root) in str(caught.value) and str(caught.value).endswith(".")
    return str(caught.value)


# ---- the real files


@pytest.mark.parametrize("split, blank", [("val", 0), ("test1", 1)])
def test_counts_of_a_split(cirr, split, blank):
    data = load_cirr(cirr, split)
    assert data.counts() == EXPECTED[split] == {"all": (IMAGES[split], PAIRS[split])}
    assert data.found == {"empty_captions": blank}
    assert (data.name, data.split, data.default_protocol) == ("cirr", split, "cirr")
    assert len({t.id for t in data.triplets}) == len(data) and {t.category for t in data.triplets} == {"all"}


@pytest.mark.parametrize("split", SPLITS)
def test_expected_counts_are_those_of_the_files(cirr, split):
    "Read without the loader and compared with literal numbers, so that loader and table cannot share a mistake."
    paths = read_json(images_of(cirr, split))
    assert len(paths) == IMAGES[split] == EXPECTED[split]["all"][0] and len(set(paths.values())) == IMAGES[split]
    assert all(Path(path).stem == name and path.endswith(".png") for name, path in paths.items())


@pytest.mark.parametrize("split", PAIRS)
def test_the_real_files_meet_what_the_loader_requires(cirr, split):
    entries = read_json(captions_of(cirr, split))
    listed = set(read_json(images_of(cirr, split)))
    assert len(entries) == PAIRS[split] == len({e["pairid"] for e in entries}) and GROUP_SIZE == 6
    for e in entries:
        members = e["img_set"]["members"]
        target = e.get("target_hard")
        assert type(e["pairid"]) is int and len(members) == len(set(members)) == 6 and set(members) <= listed
        assert e["reference"] in members and target != e["reference"]
        assert target in members if split == "val" else "target_hard" not in e
    named = set().union(*(e["img_set"]["members"] for e in entries))
    assert named == listed, "every image of the split is in a group"
    assert [e["pairid"] for e in entries if not e["caption"].strip()] == ([] if split == "val" else [27098])


def test_the_training_images_from_the_split_file_alone(cirr, tmp_path):
    "The shared files do not include the captions of the training split, so two entries are written for it."
    names = list(read_json(images_of(cirr, "train")))
    images_of(tmp_path, "train").parent.mkdir()
    images_of(tmp_path, "train").write_bytes(images_of(cirr, "train").read_bytes())
    pair = {"target_hard": names[9], "caption": "x", "img_set": {"members": names[:6]}}
    write_json(captions_of(tmp_path, "train"), [pair | {"pairid": i, "reference": names[i]} for i in (0, 1)])
    data = load_cirr(tmp_path, "train")
    assert data.counts() == {"all": (16939, 2)} and data.split_images["all"] == names
    if not captions_of(cirr, "train").exists():
        assert "is missing captions/cap.rc2.train.json. " in message(cirr, "train")


def test_an_entry_as_a_triplet(cirr):
    for split in PAIRS:
        for t, e in zip(load_cirr(cirr, split).triplets, read_json(captions_of(cirr, split)), strict=True):
            assert (t.id, t.reference, t.captions) == (str(e["pairid"]), e["reference"], (e["caption"],))
            assert t.members == tuple(e["img_set"]["members"])
            assert t.targets == ((e["target_hard"],) if split == "val" else ())


def test_soft_targets_include_some_references(cirr):
    "The reason why `target_soft` is not read, with the numbers of the notebook's prose."
    entries = read_json(captions_of(cirr, "val"))
    grades = Counter(e["target_soft"].get(e["reference"]) for e in entries)
    assert grades == {None: 4144, 1.0: 37}


def test_test_means_test1_and_has_no_targets(cirr):
    test = load_cirr(cirr, "test")
    assert test.split == "test1" and test.triplets == load_cirr(cirr, "test1").triplets
    assert all(t.targets == () for t in test.triplets) and test[0]["target"] is None
    blank = next(t for t in test.triplets if t.id == "27098")
    assert blank.captions == (" ",) and join_captions(blank.captions) == ""


def test_the_layout_of_clip4cir(cirr, tmp_path):
    for path in (captions_of, images_of):
        path(tmp_path / "cirr", "val").parent.mkdir(parents=True)
        path(tmp_path / "cirr", "val").write_bytes(path(cirr, "val").read_bytes())
    deep = load_cirr(tmp_path)
    flat = load_cirr(cirr)
    assert deep.triplets == flat.triplets and deep.split_images == flat.split_images
    assert deep.images.folders == [tmp_path]
    name = deep.triplets[0].reference
    (tmp_path / "dev").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "dev" / f"{name}.png")
    assert deep.images.missing([name, "x"]) == ["x"]


# ---- small files

SIX = [f"i{n}" for n in range(6)]


def entry(number: int = 7, **changed) -> dict:
    "One query whose group is i0 to i5."
    fields = {"pairid": number, "reference": "i0", "target_hard": "i1", "caption": "two dogs"}
    return fields | {"img_set": {"id": 1, "members": SIX}} | changed


def group(*members, **more) -> dict:
    return {"img_set": {"members": list(members)}} | more


def without(*keys: str) -> dict:
    return {k: v for k, v in entry().items() if k not in keys}


def write(root: Path, split: str, entries, images=None) -> Path:
    write_json(captions_of(root, split), entries)
    write_json(images_of(root, split), {f"i{n}": f"./{split}/i{n}.png" for n in range(8)} if images is None else images)
    return root


def test_long_captions_other_alphabets_and_blanks(tmp_path):
    names = ["é 1", "chien et chat", "狗", "a.b", "Ü", "x-1"]
    caption = "façade 🐕 " + "and one more dog " * 3000
    paths = {n: f"./dev/sub dir/{n}.png" for n in names}
    one = entry(reference=names[0], target_hard=names[2], caption=caption, **group(*names))
    write(tmp_path, "val", [one], paths)
    (tmp_path / "dev" / "sub dir").mkdir(parents=True)
    for n in names:
        Image.new("RGB", (2, 2)).save(tmp_path / "dev" / "sub dir" / f"{n}.png")
    data = apply_missing(load_cirr(tmp_path))
    t = data.triplets[0]
    assert (t.reference, t.targets, t.captions, t.members) == (names[0], (names[2],), (caption,), tuple(names))
    assert data.images("a.b").name == "a.b.png"


def test_unknown_keys_and_soft_targets_are_ignored(tmp_path):
    plain = load_cirr(write(tmp_path / "a", "val", [entry()])).triplets
    assert load_cirr(write(tmp_path / "b", "val", [entry(target_soft={"i4": 1.0}, note=3)])).triplets == plain


def test_a_target_in_test1_is_kept(tmp_path):
    write(tmp_path, "test1", [entry(), without("target_hard") | {"pairid": 8}])
    assert load_cirr(tmp_path, "test").triplets[0].targets == ("i1",)
    assert "'target_hard': ''" in message(write(tmp_path, "test1", [entry(target_hard="")]), "test1")


def test_empty_captions_are_kept_and_counted(tmp_path):
    data = load_cirr(write(tmp_path, "val", [entry(1, caption=""), entry(2), entry(3, caption=" \n")]))
    assert len(data) == 3 and data.found == {"empty_captions": 2}


def test_a_training_group_may_have_any_form(tmp_path):
    odd = [entry(1, **group("i5")), entry(2, **group("elsewhere", "elsewhere")), entry(3, target_hard="i0")]
    assert [t.members for t in load_cirr(write(tmp_path, "train", odd), "train").triplets] == [
        ("i5",),
        ("elsewhere",) * 2,
        tuple(SIX),
    ]
    for e in odd:
        assert "Download the file again" in message(write(tmp_path, "val", [e])) or "does not list" in message(tmp_path)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    "entries, words",
    [
        ({"pairid": 7}, "must be a JSON list of entries, not a dict"),
        ([], "contains no entries"),
        ([entry(), 3], "entry 2 (index 1) is not an object with the keys"),
        ([without("pairid")], "entry 1 (index 0) has no key 'pairid', which must be a whole number"),
        ([without("reference")], "has no key 'reference'"),
        ([without("caption")], "has no key 'caption'"),
        ([without("img_set")], "has no key 'img_set', which must be an object"),
        ([entry("7")], "has 'pairid': '7', which must be a whole number"),
        ([entry(7.0)], "has 'pairid': 7.0"),
        ([entry(True)], "has 'pairid': True"),
        ([entry(None)], "has 'pairid': None"),
        ([entry(reference=" ")], "has 'reference': ' ', which must be a non-empty string"),
        ([entry(reference=["i0"])], "has 'reference': ['i0']"),
        ([entry(target_hard=None)], "has 'target_hard': None"),
        ([entry(target_hard=["i1"])], "has 'target_hard': ['i1']"),
        ([entry(caption=None)], "has 'caption': None, which must be a string"),
        ([entry(caption=["two dogs"])], "has 'caption': ['two dogs']"),
        ([entry(img_set=SIX)], "has 'img_set': ['i0', 'i1'"),
        ([entry(img_set={"id": 1})], "has 'img_set' with 'members': None, which must be a list of non-empty strings"),
        ([entry(img_set={"members": "i0"})], "has 'img_set' with 'members': 'i0'"),
        ([entry(**group())], "has 'img_set' with 'members': []"),
        ([entry(**group(*SIX[:5], ""))], "has 'img_set' with 'members': ['i0'"),
        ([entry(**group(*SIX[:5], 3))], "has 'img_set' with 'members': ['i0'"),
        ([entry(8), entry(9), entry(8)], "entry 3 (index 2) has the 'pairid' 8 of entry 1"),
        ([entry(reference="zz")], "entry 1 (index 0) names the image 'zz', which split.rc2.{split}.json does not list"),
        (
            [entry(1), entry(2, target_hard="i1.png")],
            "entry 2 (index 1) names the image 'i1.png', which split.rc2.{split}.json does not list",
        ),
    ],
)
def test_a_wrong_entry_is_named_in_every_split(tmp_path, split, entries, words):
    said = message(write(tmp_path, split, entries), split)
    assert words.format(split=split) in said and f"cap.rc2.{split}.json" in said


@pytest.mark.parametrize("split", ["val", "test1"])
@pytest.mark.parametrize(
    "changed, words",
    [
        (group(*SIX[:5], "zz"), "names the image 'zz', which split.rc2.{split}.json does not list"),
        (group(*SIX[:5]), "has 5 different images in a list of 5 'members', which must be 6"),
        (group(*SIX, "i6"), "has 7 different images in a list of 7 'members'"),
        (group(*SIX[:5], "i2"), "has 5 different images in a list of 6 'members'"),
        (group(*SIX, "i2"), "has 6 different images in a list of 7 'members'"),
        ({"reference": "i6"}, "has 'i6' as reference or target, which is not among its 'members'"),
        ({"target_hard": "i7"}, "has 'i7' as reference or target, which is not among its 'members'"),
        ({"target_hard": "i0"}, "has its reference 'i0' as 'target_hard', which can never be retrieved"),
    ],
)
def test_a_group_with_a_wrong_subset_recall_is_an_error(tmp_path, split, changed, words):
    said = message(write(tmp_path, split, [entry(1), entry(2, **changed)]), split)
    assert f"cap.rc2.{split}.json, entry 2 (index 1) {words.format(split=split)}" in said


def test_targets_are_required_outside_test1(tmp_path):
    for split in ("train", "val"):
        assert "has no key 'target_hard', which must be a non-empty string" in message(
            write(tmp_path, split, [without("target_hard")]), split
        )
    assert load_cirr(write(tmp_path, "test1", [without("target_hard")]), "test1").triplets[0].targets == ()


@pytest.mark.parametrize(
    "images, words",
    [
        ([], "must be a JSON object"),
        ({}, "must be a JSON object that maps image names to paths"),
        (["i0"], "must be a JSON object"),
        ({"i0": "./dev/i1.png"}, "gives the image 'i0' the path './dev/i1.png', which must end in that name"),
        ({"i0.png": "./dev/i0.png"}, "gives the image 'i0.png' the path"),
        ({"i0": None}, "gives the image 'i0' the path None"),
        ({"": ""}, "gives the image '' the path ''"),
        ({"i0": ["./dev/i0.png"]}, "gives the image 'i0' the path ['./dev/i0.png']"),
        ({"i0": "./dev/i0/"}, "gives the image 'i0' the path './dev/i0/'"),
    ],
)
def test_a_wrong_split_file_is_named_with_its_key(tmp_path, images, words):
    said = message(write(tmp_path, "val", [entry()], images))
    assert words in said and "split.rc2.val.json" in said


@pytest.mark.parametrize("path", [captions_of, images_of])
def test_a_missing_or_broken_file_is_named(tmp_path, path):
    for content in (b"", b"[{", '{"é": 1}'.encode("latin-1")):
        path(write(tmp_path, "val", [entry()]), "val").write_bytes(content)
        assert f"{path(tmp_path, 'val').name} is not readable JSON" in message(tmp_path)
    path(tmp_path, "val").unlink()
    assert f"{tmp_path} is missing {path(tmp_path, 'val').relative_to(tmp_path)}. " in message(tmp_path)
    write(tmp_path / "cirr", "val", [entry()])
    assert len(load_cirr(tmp_path)) == 1, "the complete place is read"


def test_missing_folder_missing_files_and_unknown_split(tmp_path):
    assert "There is no dataset folder" in message(tmp_path / "none")
    (tmp_path / "file").write_text("")
    assert "There is no dataset folder" in message(tmp_path / "file")
    assert "is missing captions/cap.rc2.test1.json, image_splits/split.rc2.test1.json" in message(tmp_path, "test")
    unknown = (
        ("test2", "no split of CIRR named 'test2'. Did you mean 'test"),
        ("x", "Choose from: test, test1, train, val"),
    )
    for wrong, words in unknown:
        with pytest.raises(ErnError, match=words):
            load_cirr(tmp_path, wrong)
