"Shoes: every count against the real annotation files, both forms of the files, and errors about bad files."

from pathlib import Path

import pytest
from PIL import Image

from fashionern.data.datasets.shoes import CAPTION_COUNT, EXPECTED, LIST_FILES, SPLITS, load_shoes
from fashionern.data.triplets import apply_missing
from fashionern.errors import ErnError
from fashionern.files import read_json, write_json

FILES = ("relative_captions_shoes.json", "train_im_names.txt", "eval_im_names.txt")


@pytest.fixture(scope="session")
def shoes(annotations):
    return annotations("shoes")


def lines(path: Path) -> list[str]:
    "The lines of a file, read without the loader."
    return path.read_bytes().decode("utf-8").split()


def content(data) -> list[tuple]:
    "The triplets without their ids."
    return [(t.reference, t.targets, t.captions, t.category) for t in data.triplets]


def message(root, split: str = "val") -> str:
    "The message of the `ErnError` that loading raises: one line that names the folder."
    with pytest.raises(ErnError) as caught:
        load_shoes(root, split)
    assert "\n" not in str(caught.value) and str(root) in str(caught.value) and str(caught.value).endswith(".")
    return str(caught.value)


# ---- the real files


@pytest.mark.parametrize("split, images, triplets, alike", [("train", 10000, 8990, 26), ("val", 4658, 1761, 1)])
def test_counts_of_a_split(shoes, split, images, triplets, alike):
    data = load_shoes(shoes, split)
    assert data.counts() == EXPECTED[split] == {"all": (images, triplets)}
    assert data.found == {"listed_twice": 0, "in_no_split": 0, "target_is_reference": alike}
    assert (data.name, data.split, data.default_protocol) == ("shoes", split, "shoes")
    assert set(data.named_images()) <= set(data.split_images["all"])


def test_expected_counts_are_those_of_the_files(shoes):
    "Read without the loader and compared with literal numbers, so that loader and table cannot share a mistake."
    entries = read_json(shoes / "relative_captions_shoes.json")
    train, val = (lines(shoes / name) for name in ("train_im_names.txt", "eval_im_names.txt"))
    assert (len(entries), len(train), len(val)) == (10751, 10000, 4658) and CAPTION_COUNT == 10751
    assert len(set(train)) == 10000 and len(set(val)) == 4658 and not set(train) & set(val)
    for names, triplets in ((set(train), 8990), (set(val), 1761)):
        assert sum(e["ImageName"] in names and e["ReferenceImageName"] in names for e in entries) == triplets
    assert {n.rsplit(".", 1)[1] for n in train + val} == {"jpg"} and list(EXPECTED) == list(SPLITS)


def test_an_id_gives_the_position_in_the_file(shoes):
    entries = read_json(shoes / "relative_captions_shoes.json")
    seen = set()
    for split in SPLITS:
        for t in load_shoes(shoes, split).triplets:
            _, in_id, index = t.id.split("-")
            e = entries[int(index)]
            assert (in_id, t.captions) == (split, (e["RelativeCaption"],))
            assert (f"{t.reference}.jpg", f"{t.target}.jpg") == (e["ReferenceImageName"], e["ImageName"])
            seen.add(int(index))
    assert seen == set(range(10751))


def test_test_means_val(shoes):
    test = load_shoes(shoes, "test")
    val = load_shoes(shoes)
    assert test.split == "val" and test.triplets == val.triplets and test.split_images == val.split_images


def write_derived(shoes: Path, root: Path, split: str) -> None:
    "Write the real files in the derived form: one caption file per split, and paths instead of names."
    listed = lines(shoes / LIST_FILES[split])
    paths = {name: f"womens/{name.removeprefix('img_').rsplit('_', 1)[0]}/0/{name}" for name in listed}
    entries = []
    for e in read_json(shoes / "relative_captions_shoes.json"):
        if {e["ImageName"], e["ReferenceImageName"]} <= paths.keys():
            entries.append(e | {key: paths[e[key]] for key in ("ImageName", "ReferenceImageName")})
    write_json(root / f"split.{split}.json", list(paths.values()))
    write_json(root / f"triplet.{split}.json", entries)


@pytest.mark.parametrize("split", SPLITS)
def test_the_derived_form_gives_the_same_triplets(shoes, tmp_path, split):
    write_derived(shoes, tmp_path, split)
    derived = load_shoes(tmp_path, split)
    data = load_shoes(shoes, split)
    assert content(derived) == content(data)
    assert derived.split_images == data.split_images and derived.found == data.found
    assert [t.id for t in derived.triplets] == [f"shoes-{split}-{i}" for i in range(len(data))]


def test_triplets_outside_a_shorter_list_are_counted(shoes, tmp_path):
    for name in FILES[:2]:
        (tmp_path / name).write_bytes((shoes / name).read_bytes())
    kept = lines(shoes / FILES[2])[:4000]
    (tmp_path / FILES[2]).write_text("\n".join(kept) + "\n")
    data = load_shoes(tmp_path)
    assert len(data) < 1761 and len(data) + data.found["in_no_split"] == 1761
    assert load_shoes(tmp_path, "train").found["in_no_split"] == data.found["in_no_split"]


# ---- small files


def entry(reference: str, target: str, caption: str = "is red") -> dict:
    return {"ImageName": target, "ReferenceImageName": reference, "RelativeCaption": caption}


@pytest.fixture
def small(tmp_path) -> Path:
    "The download: images a and b in training, c, d and e in evaluation."
    pairs = (("a.jpg", "b.jpg"), ("c.jpg", "d.jpg"), ("a.jpg", "c.jpg"), ("x.jpg", "c.jpg"))
    write_json(tmp_path / FILES[0], [entry(*pair) for pair in pairs])
    (tmp_path / FILES[1]).write_text("a.jpg\nb.jpg\n")
    (tmp_path / FILES[2]).write_text("c.jpg\nd.jpg\ne.jpg\nc.jpg\n")
    return tmp_path


@pytest.fixture
def derived(tmp_path) -> Path:
    "The derived form of one split."
    write_json(tmp_path / "split.val.json", ["w/0/c.jpg", "w/0/d.jpg", "w/1/c.jpg"])
    write_json(tmp_path / "triplet.val.json", [entry("w/0/c.jpg", "w/0/d.jpg")])
    return tmp_path


def test_triplets_of_no_split_are_counted(small):
    data = load_shoes(small)
    assert [t.id for t in data.triplets] == ["shoes-val-1"] and data.split_images == {"all": ["c", "d", "e"]}
    assert data.found == {"listed_twice": 1, "in_no_split": 2, "target_is_reference": 0}


def test_the_download_is_read_if_both_forms_exist(small, derived):
    assert small == derived and load_shoes(small).split_images == {"all": ["c", "d", "e"]}
    (small / FILES[1]).unlink()
    assert load_shoes(small).split_images == {"all": ["c", "d"]} and load_shoes(small).found["listed_twice"] == 1
    said = message(small, "train")
    assert said.startswith(f"{small} is missing train_im_names.txt for the form of the download, ")
    assert "and triplet.train.json, split.train.json for the derived form." in said


def test_long_captions_other_alphabets_blanks_and_windows_line_ends(small):
    caption = "ist höher, naïve 靴 👠 " + "and has one more strap " * 2000
    write_json(small / FILES[0], [entry("é 1.jpg", "womens clogs/Ü v1.2.JPG", caption)])
    (small / FILES[2]).write_bytes("\ufeffé 1.jpg\r\n\r\n  Ü v1.2.JPG \r\n".encode())
    data = load_shoes(small)
    assert content(data) == [("é 1", ("Ü v1.2",), (caption,), "all")]
    assert data.split_images["all"] == ["é 1", "Ü v1.2"]
    for name in ("womens a/0/é 1.jpg", "womens a/1/Ü v1.2.JPG"):
        (small / name).parent.mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(small / name, format="JPEG")
    assert len(apply_missing(data)) == 1 and data.images("Ü v1.2").name == "Ü v1.2.JPG"


@pytest.mark.parametrize("missing", FILES)
def test_a_missing_file_is_named(small, missing):
    (small / missing).unlink()
    assert f"is missing {missing} for the form of the download" in message(small)


def test_missing_folder_missing_files_and_unknown_split(tmp_path):
    assert "There is no dataset folder" in message(tmp_path / "none")
    (tmp_path / "file").write_text("")
    assert "There is no dataset folder" in message(tmp_path / "file")
    assert all(name in message(tmp_path) for name in (*FILES, "triplet.val.json", "split.val.json"))
    for wrong, words in (
        ("tran", "no split of Shoes named 'tran'. Did you mean 'train'"),
        ("x", "Choose from: test, train, val"),
    ):
        with pytest.raises(ErnError, match=words):
            load_shoes(tmp_path, wrong)


GOOD = entry("c.jpg", "d.jpg")


@pytest.mark.parametrize(
    "entries, words",
    [
        ({"a": 1}, "must be a JSON list of entries, not a dict"),
        ([], "contains no triplet of Shoes (val) with both images"),
        ([entry("c.jpg", "x.jpg")], "contains no triplet of Shoes (val) with both images"),
        ([GOOD, "c.jpg"], "entry 2 (index 1) is not an object with the keys"),
        (
            [GOOD, GOOD, {"ImageName": "c.jpg", "RelativeCaption": "x"}],
            "entry 3 (index 2) has no key 'ReferenceImageName'",
        ),
        ([{"ReferenceImageName": "c.jpg", "RelativeCaption": "x"}], "entry 1 (index 0) has no key 'ImageName'"),
        ([{"ImageName": "c.jpg", "ReferenceImageName": "d.jpg"}], "has no key 'RelativeCaption'"),
        ([{**GOOD, "ImageName": 7}], "has 'ImageName': 7, which must be a non-empty string"),
        ([{**GOOD, "ReferenceImageName": None}], "has 'ReferenceImageName': None"),
        ([{**GOOD, "ReferenceImageName": ["c.jpg"]}], "has 'ReferenceImageName': ['c.jpg']"),
        ([{**GOOD, "RelativeCaption": ""}], "has 'RelativeCaption': '', which must be a non-empty string"),
        ([{**GOOD, "RelativeCaption": " \n"}], "has 'RelativeCaption': ' \\n'"),
        ([{**GOOD, "RelativeCaption": ["is red"]}], "has 'RelativeCaption': ['is red']"),
    ],
)
def test_a_wrong_entry_is_named_with_its_file(small, entries, words):
    write_json(small / FILES[0], entries)
    assert words in message(small) and (FILES[0] in message(small) or "contains no triplet" in words)


@pytest.mark.parametrize(
    "name, content, words",
    [
        (FILES[0], b"[{", "relative_captions_shoes.json is not readable JSON"),
        (FILES[0], b"", "relative_captions_shoes.json is not readable JSON"),
        (FILES[0], '["é"]'.encode("latin-1"), "relative_captions_shoes.json is not readable JSON"),
        (FILES[1], b"", "train_im_names.txt lists no images"),
        (FILES[2], b"\n \r\n", "eval_im_names.txt lists no images"),
        (FILES[2], b"\xff\xfec\x00.\x00", "eval_im_names.txt is not UTF-8 text"),
        (
            FILES[2],
            b"c.jpg\nd.jpg\nb.jpg\n",
            "eval_im_names.txt lists 'b' (1 in all), which train_im_names.txt lists too",
        ),
    ],
)
def test_a_broken_file_is_named(small, name, content, words):
    (small / name).write_bytes(content)
    assert words in message(small)


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("split.val.json", [], "split.val.json must be a JSON list of image names"),
        ("split.val.json", ["c.jpg", ""], "split.val.json must be a JSON list of image names, none empty"),
        ("split.val.json", {"c.jpg": 1}, "split.val.json must be a JSON list"),
        (
            "split.val.json",
            ["w/c.jpg"],
            "triplet.val.json, entry 1 (index 0) names the image 'd', which split.val.json does not list",
        ),
        (
            "triplet.val.json",
            [entry("d.jpg", "c.jpg"), entry("z/zz.jpg", "c.jpg")],
            "entry 2 (index 1) names the image 'zz', which split.val.json",
        ),
        ("triplet.val.json", [], "contains no triplet of Shoes (val)"),
        (
            "triplet.val.json",
            [{**GOOD, "RelativeCaption": 3}],
            "triplet.val.json, entry 1 (index 0) has 'RelativeCaption': 3",
        ),
    ],
)
def test_a_wrong_derived_file_is_named(derived, name, value, words):
    write_json(derived / name, value)
    assert words in message(derived)


@pytest.mark.parametrize("name", ["split.val.json", "triplet.val.json"])
def test_a_missing_or_broken_derived_file_is_named(derived, name):
    (derived / name).write_bytes(b"\xff[")
    assert f"{name} is not readable JSON" in message(derived)
    (derived / name).unlink()
    assert f"{name} for the derived form" in message(derived)
