"The drawn editions: their files, read without the code that wrote them, and what the loaders return."

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from itertools import chain, product
from pathlib import Path

import pytest
from PIL import Image

from fashionern.data.annotations import read_lines
from fashionern.data.datasets.check import check_dataset
from fashionern.data.datasets.editions import EDITIONS, LIMITS, draw_dataset, make_cirr, make_fashion200k, make_shoes
from fashionern.data.datasets.factory import create_dataset
from fashionern.data.drawn.drawing import ATTRIBUTES, Design
from fashionern.data.drawn.garments import write_note
from fashionern.data.drawn.wording import changes, names_value
from fashionern.data.registry import DATASETS, DRAWN_NOTE
from fashionern.data.triplets import apply_missing
from fashionern.errors import ErnError
from fashionern.files import read_json, write_json

SMALL = {"images": 60, "size": 48, "workers": 1}
SPLITS = {
    "fashioniq": ("train", "val", "test"),
    "shoes": ("train", "val"),
    "fashion200k": ("train", "test"),
    "cirr": ("train", "val", "test1"),
}
FORMATS = {
    "fashioniq": (".png", "PNG"),
    "shoes": (".jpg", "JPEG"),
    "fashion200k": (".jpeg", "JPEG"),
    "cirr": (".png", "PNG"),
}


def digests(root: Path) -> dict[str, str]:
    "Path → digest of every file."
    files = [p for p in sorted(root.rglob("*")) if p.is_file()]
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def pictures(root: Path) -> list[Path]:
    return [p for p in sorted(root.rglob("*")) if p.suffix in (".png", ".jpg", ".jpeg")]


def designs_of(root: Path) -> dict[str, Design]:
    return {name: Design(**values) for name, values in read_json(root / "designs.json").items()}


def contains(caption: str, word: str) -> bool:
    "Whether a caption contains one or several words as complete words."
    letters = "".join(c if c.isalpha() or c == "-" else " " for c in caption.lower())
    return f" {word} " in f" {' '.join(letters.split())} "


def unnamed(old: Design, new: Design, captions: tuple[str, ...]) -> list[str]:
    "The changes that no caption names."
    missing = []
    for name in changes(old, new):
        if not any(names_value(caption, name, new) for caption in captions):
            missing.append(name)
    return missing


@pytest.fixture(scope="module", params=SPLITS)
def edition(request, tmp_path_factory) -> tuple[str, Path, dict]:
    "Name, folder and summary of an edition, which tests must not change."
    root = tmp_path_factory.mktemp("editions") / request.param
    return request.param, root, draw_dataset(request.param, root, **SMALL)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    "Draws each edition once and returns its folder."
    folder = tmp_path_factory.mktemp("drawn")

    def get(name: str) -> Path:
        draw_dataset(name, folder / name, **SMALL)
        return folder / name

    return get


def test_every_dataset_with_published_files_has_an_edition():
    assert set(EDITIONS) == set(SPLITS) == set(DATASETS.names()) - {"folder", "circo"}  # no edition of CIRCO is drawn
    assert {name: DATASETS.get(name).splits for name in SPLITS} == SPLITS


def test_every_split_has_its_images_and_queries(edition):
    name, root, summary = edition
    assert tuple(summary) == SPLITS[name] and read_json(root / DRAWN_NOTE)["summary"] == summary
    for split, categories in summary.items():
        data = create_dataset(name, root, split)
        assert data.found["images"] == len(data.all_images()) == sum(c["images"] for c in categories.values())
        assert len(data.all_images()) == (60 if split == "train" else 30)
        triplets = sum(c["triplets"] for c in categories.values())
        if (name, split) == ("fashion200k", "train"):
            assert triplets == 0 and len(data) > 50, "the loader draws them each epoch"
        else:
            assert triplets == len(data) > 0
        without_targets = split == "test1" or (name, split) == ("fashioniq", "test")
        assert all(bool(t.targets) != without_targets for t in data.triplets)


def test_pictures_have_the_format_of_their_suffix(edition):
    name, root, summary = edition
    files = pictures(root)
    counts = chain.from_iterable(categories.values() for categories in summary.values())
    assert len(files) == sum(of_category["images"] for of_category in counts)
    for file in files:
        with Image.open(file) as image:
            assert (file.suffix, image.format, image.size, image.mode) == (*FORMATS[name], (48, 48), "RGB")


def test_no_design_is_in_two_splits_and_descriptions_are_of_training_images(edition):
    name, root, _ = edition
    designs = designs_of(root)
    images = {s: set(create_dataset(name, root, s).all_images()) for s in SPLITS[name]}
    assert Counter(chain.from_iterable(images.values())) == Counter(designs.keys())
    homes = defaultdict(set)
    for split, names in images.items():
        for n in names:
            homes[designs[n]].add(split)
    assert all(len(splits) == 1 for splits in homes.values())
    described = read_json(root / "descriptions.json")
    assert set(described) == images["train"] and create_dataset(name, root, "train").descriptions == described
    for n, texts in described.items():
        assert all(contains(text, designs[n].colour) and contains(text, designs[n].category) for text in texts)


def test_statements_say_each_value_and_list_its_training_images(edition):
    name, root, _ = edition
    designs = designs_of(root)
    data = create_dataset(name, root, "train")
    told = Counter(chain.from_iterable(statement.images for statement in data.statements))
    assert told == dict.fromkeys(data.all_images(), 6), "one value of each attribute"
    texts = Counter(chain.from_iterable(statement.texts for statement in data.statements))
    assert max(texts.values()) == 1, "no text says two values"
    assert {statement.about for statement in data.statements} == set(ATTRIBUTES["dress"])
    for statement in data.statements:
        values = {getattr(designs[n], statement.about) for n in statement.images}
        assert len(values) == 1, statement.texts


BAD_STATEMENTS = [
    {"texts": []},
    ["red"],
    [{"texts": ["red"]}],
    [{"texts": [1], "images": ["a"]}],
    [{"texts": ["red"], "images": ["a"], "about": 1}],
]


@pytest.mark.parametrize("content", BAD_STATEMENTS)
def test_statements_of_another_form_are_refused(edition, tmp_path, content):
    name, root, _ = edition
    copy = shutil.copytree(root, tmp_path / "data")
    write_json(copy / "statements.json", content)
    with pytest.raises(ErnError, match="statements.json must be a JSON list"):
        create_dataset(name, copy, "train")
    assert "statements.json" in check_dataset(name, copy).errors["statements"]


def test_alternatives_that_are_both_true_of_an_image_are_refused(edition, tmp_path):
    name, root, _ = edition
    copy = shutil.copytree(root, tmp_path / "data")
    content = read_json(copy / "statements.json")
    image = content[0]["images"][0]
    content[1]["images"].append(image)
    assert content[0]["about"] == content[1]["about"]
    write_json(copy / "statements.json", content)
    with pytest.raises(ErnError, match=f"{image} is in two statements about {content[0]['about']}"):
        create_dataset(name, copy, "train")
    for statement in content:
        del statement["about"]
    write_json(copy / "statements.json", content)
    create_dataset(name, copy, "train")  # without `about`, both may be true


def test_files_depend_on_the_seed_and_not_on_the_number_of_processes(edition, tmp_path):
    name, root, summary = edition
    first = digests(root)
    assert (
        draw_dataset(name, tmp_path / "again", **SMALL | {"workers": 2}) == summary
        and digests(tmp_path / "again") == first
    )
    draw_dataset(name, tmp_path / "other", seed=43, **SMALL)
    assert not set(first.values()) & set(digests(tmp_path / "other").values()), "no file is the same"


def test_a_second_call_does_nothing_and_a_killed_one_is_repeated(edition, tmp_path):
    name, _, summary = edition
    root = tmp_path / "data"
    draw_dataset(name, root, **SMALL)
    first = digests(root)
    touched = pictures(root)[0]
    touched.write_bytes(b"touched")
    assert draw_dataset(name.upper(), root, **SMALL) == summary and touched.read_bytes() == b"touched"
    write_note(root, read_json(root / DRAWN_NOTE)["asked"])  # the note of a call that was killed
    (root / "descriptions.json").unlink()
    assert draw_dataset(name, root, **SMALL) == summary and digests(root) == first


def test_errors(edition, tmp_path):
    name, root, _ = edition
    before = digests(root)
    other = next(n for n in SPLITS if n != name)
    for change in ({"seed": 1}, {"images": 72}, {"size": 64}):
        with pytest.raises(ErnError, match="drawn with other parameters"):
            draw_dataset(name, root, **SMALL | change)
    with pytest.raises(ErnError, match="drawn with other parameters"):
        draw_dataset(other, root, **SMALL)
    assert digests(root) == before
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ErnError, match="not empty"):
        draw_dataset(name, tmp_path, **SMALL)
    with pytest.raises(ErnError, match="is a file"):
        draw_dataset(name, tmp_path / "mine.txt", **SMALL)
    outside = [("images", 59, "60"), ("images", 3601, "3,600"), ("size", 15, "16"), ("size", 1025, "1,024")]
    outside += [("seed", -1, "0"), ("seed", 2**32, "4,294,967,295")]
    for option, value, limit in outside:
        with pytest.raises(ErnError, match=f"{option} = {value:,}.* {limit}"):
            draw_dataset(name, tmp_path / "new", **SMALL | {option: value})
    with pytest.raises(ErnError, match=repr(name)):
        draw_dataset(name[:-1] + "_", tmp_path / "new", **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("make", [make_shoes, make_fashion200k, make_cirr])
def test_the_smallest_and_the_largest_can_be_made(make):
    "Every seed has enough pairs for its queries, and there are enough designs."
    low, high = LIMITS["images"]
    for images, seed in ((high, 0), *((low, seed) for seed in range(40))):
        last = list(make(images, seed).garments.summary().values())[-1]
        assert sum(c["triplets"] for c in last.values()) >= images / 4


@pytest.mark.parametrize("seed", range(5))
def test_fashioniq_at_its_limits(seed, tmp_path, monkeypatch):
    monkeypatch.setattr("fashionern.data.drawn.garments.draw_pictures", lambda *args: None)
    for images in LIMITS["images"]:
        summary = draw_dataset("fashioniq", tmp_path / str(images), images, seed, size=16)
        assert summary["val"]["shirt"] == {"images": images // 12 * 2, "triplets": images // 12 * 2 * 4 // 5}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", ["fashioniq", "shoes", "cirr"])
def test_captions_name_every_change(drawn, name, split):
    root = drawn(name)
    designs = designs_of(root)
    data = create_dataset(name, root, split)
    misspelt = 0
    for t in data.triplets:
        old = designs[t.reference]
        new = designs[t.target]
        assert len(t.captions) == (2 if name == "fashioniq" else 1)
        assert old.category == new.category and 1 <= len(changes(old, new)) <= 2
        misspelt += bool(unnamed(old, new, t.captions))
    assert misspelt <= 0.08 * len(data), "only a spelling slip may hide a value"
    assert {len(changes(designs[t.reference], designs[t.target])) for t in data.triplets} == {1, 2}


def test_shoes_files(drawn):
    root = drawn("shoes")
    lists = {s: read_lines(root / f) for s, f in (("train", "train_im_names.txt"), ("val", "eval_im_names.txt"))}
    where = {p.name: p.relative_to(root).parts for p in pictures(root)}
    assert Counter(chain.from_iterable(lists.values())) == Counter(where.keys())
    for file, (top, category, number, _) in where.items():
        assert top == "attributedata" and number.isdigit() and file.startswith(f"img_{category}_")
    entries = read_json(root / "relative_captions_shoes.json")
    assert all(list(e) == ["ImageName", "ReferenceImageName", "RelativeCaption"] for e in entries)
    pairs = [(e["ReferenceImageName"], e["ImageName"]) for e in entries]
    assert len(set(pairs)) == len(pairs)
    for pair in pairs:
        assert sum(set(pair) <= set(names) for names in lists.values()) == 1
    designs = designs_of(root)
    assert len(set(designs.values())) == len(designs), "one picture per design, so one positive per query"
    assert create_dataset("shoes", root, "train").found["in_no_split"] == 0


def labels(root: Path, split: str) -> dict[str, tuple[str, str]]:
    "Path → category of its file and description."
    out = {}
    for file in sorted((root / "labels").glob(f"*_{split}_detect_all.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            path, score, text = line.split("\t")
            assert path not in out and 0 < float(score) <= 1
            out[path] = file.name.split("_")[0], text
    return out


def differ_in_one_word(a: str, b: str) -> bool:
    pairs = list(zip(a.split(), b.split(), strict=True))
    return sum(x != y for x, y in pairs) == 1


def test_fashion200k_files(drawn):
    root = drawn("fashion200k")
    found = {s: labels(root, s) for s in ("train", "test")}
    paths = list(chain.from_iterable(found.values()))
    assert Counter(paths) == Counter(p.relative_to(root).as_posix() for p in pictures(root))
    rows = found["train"] | found["test"]
    assert {category for category, _ in rows.values()} == {"dress", "jacket", "top"}
    designs = designs_of(root)
    shows = defaultdict(set)
    products = defaultdict(set)
    for path, (category, text) in rows.items():
        women, kind, _, product, file = path.split("/")
        assert (women, kind) == ("women", {"dress": "dresses", "jacket": "jackets", "top": "tops"}[category])
        assert file in (f"{product}_0.jpeg", f"{product}_1.jpeg") and text.split()[-1] == category
        design = designs[path.removesuffix(".jpeg")]
        shows[text].add((design.category, design.colour, design.pattern, design.sleeve, design.length))
        products[product].add(design)
    assert all(len(seen) == 1 for seen in (*shows.values(), *products.values()))
    assert len({next(iter(d)) for d in products.values()}) == len(products)


def test_fashion200k_training_images_have_siblings(drawn):
    texts = {p: t for p, (_, t) in labels(drawn("fashion200k"), "train").items()}
    alone = [p for p, t in texts.items() if not any(differ_in_one_word(t, other) for other in texts.values())]
    data = create_dataset("fashion200k", drawn("fashion200k"), "train")
    assert data.found["without_siblings"] == len(alone) <= len(texts) // 10
    for epoch in range(3):
        triplets = data.epoch(42, epoch).triplets
        assert len(triplets) == len(texts) - len(alone)
        assert all(differ_in_one_word(texts[f"{t.reference}.jpeg"], texts[f"{t.target}.jpeg"]) for t in triplets)


def test_fashion200k_queries_are_siblings_with_several_positives(drawn):
    root = drawn("fashion200k")
    test = labels(root, "test")
    data = create_dataset("fashion200k", root, "test")
    pairs = [line.split(" ") for line in read_lines(root / "test_queries.txt")]
    for (reference, target), t in zip(pairs, data.triplets, strict=True):
        assert test[reference][0] == test[target][0] and differ_in_one_word(test[reference][1], test[target][1])
        assert (t.reference, t.target) == (reference.removesuffix(".jpeg"), target.removesuffix(".jpeg"))
        old, new = next((a, b) for a, b in zip(test[reference][1].split(), test[target][1].split()) if a != b)
        assert t.captions == (f"replace {old} with {new}",)
        assert {f"{n}.jpeg" for n in t.targets} == {p for p, (_, text) in test.items() if text == test[target][1]}
    designs = designs_of(root)
    positives = [t.targets for t in data.triplets]
    assert min(map(len, positives)) >= 2, "both pictures of a product"
    shown = [{designs[n] for n in targets} for targets in positives]
    assert any(len(group) > 1 for group in shown), "products that differ only in what the description omits"


def test_cirr_files(drawn):
    root = drawn("cirr")
    designs = designs_of(root)
    pair_ids = []
    of_group = {}
    listed_at = {}
    for split in SPLITS["cirr"]:
        listed = read_json(root / "image_splits" / f"split.rc2.{split}.json")
        listed_at |= listed
        for e in read_json(root / "captions" / f"cap.rc2.{split}.json"):
            pair_ids.append(e["pairid"])
            group = e["img_set"]
            members = group["members"]
            assert len(members) == len(set(members)) == 6 and set(members) <= set(listed)
            assert len({designs[m] for m in members}) == 6, "one member has the target's design"
            assert of_group.setdefault(group["id"], members) == members and e["reference"] in members
            has_target = {"target_hard", "target_soft"} <= set(e) and "target_rank" in group
            assert has_target == (split != "test1") and has_target == ("target" in json.dumps(list(e) + list(group)))
            named = {"reference": e["reference"]}
            if has_target:
                named["target"] = e["target_hard"]
                assert e["target_hard"] in members and e["target_hard"] != e["reference"]
                assert e["target_soft"] == {e["target_hard"]: 1.0}
            for key, name in named.items():
                assert group[f"{key}_rank"] in range(6)
                assert listed[name].startswith({"train": "./train/", "val": "./dev/", "test1": "./test1/"}[split])
    assert len(set(pair_ids)) == len(pair_ids) == 9 * len(of_group) == 9 * 20
    assert Counter(chain.from_iterable(of_group.values())) == Counter(listed_at.keys()), "an image is in one group"
    assert all((root / path).is_file() and Path(path).stem == name for name, path in listed_at.items())
    assert len(listed_at) == len(pictures(root)) == len(set(designs.values())) == 120


def test_cirr_groups_are_alike(drawn):
    root = drawn("cirr")
    designs = designs_of(root)
    for split in SPLITS["cirr"]:
        for members in {t.members for t in create_dataset("cirr", root, split).triplets}:
            among = [designs[m] for m in members]
            assert all(len(changes(a, b)) <= 2 for a, b in product(among, among))
            assert len({d.category for d in among}) == 1


def test_a_deleted_picture_is_noticed(tmp_path):
    "Missing images are noticed in editions too, so the tests above would fail on one."
    draw_dataset("cirr", tmp_path / "data", **SMALL)
    pictures(tmp_path / "data" / "dev")[0].unlink()
    data = DATASETS.get("cirr").load(tmp_path / "data", "val")
    with pytest.raises(ErnError, match="1 of 30 images"):
        apply_missing(data)
