"A user's own data: product tables worked by hand, disjoint splits, bad input, hostile archives, the real catalogue."

import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from error_sentence import sentence
from PIL import Image

from fashionern.data.catalogue import table as table_module
from fashionern.data.catalogue.photos import unpack_images
from fashionern.data.catalogue.prepare import take_photos
from fashionern.data.catalogue.queries import draw_triplets
from fashionern.data.catalogue.table import read_table, select_products, triplets_from_table
from fashionern.data.datasets.factory import create_dataset
from fashionern.data.datasets.folder import load_folder, read_products
from fashionern.data.images import ImageFinder
from fashionern.data.language.parser import ChangeParser, read_change
from fashionern.data.language.values import value_of
from fashionern.evaluation.protocols import protocols_for
from fashionern.files import locked, write_json

SCRIPT = Path(__file__).resolve().parents[2] / "data_scripts" / "catalogue" / "prepare.py"
ATTRIBUTES = ("colour", "kind", "sleeve")


def photo(path: Path, number: int) -> None:
    "An image that differs from that of any other number."
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (8, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((60, 80)).save(path, quality=95)


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    "120 products in 4 colours, 3 kinds and 2 sleeves. 100 to 119 have the photos of 0 to 19, saved again."
    root = tmp_path_factory.mktemp("shop")
    rows = []
    for i in range(120):
        colour = ("Red", "Navy Blue", "Green", "Black")[i % 4]
        kind = ("Shirts", "Tops", "Dresses")[i % 3]
        sleeve = ("short", "long")[i // 12 % 2]
        rows.append((i, colour, kind, sleeve, f"Garment {i}"))
        if i < 100:
            photo(root / "images" / f"{i}.jpg", i)
        else:
            with Image.open(root / "images" / f"{i - 100}.jpg") as first:
                first.resize((120, 160)).save(root / "images" / f"{i}.jpg", quality=90)
    frame = pd.DataFrame(rows, columns=["id", *ATTRIBUTES, "name"])
    frame.to_csv(root / "shop.csv", index=False)
    frame.to_parquet(root / "shop.parquet")
    return root


def make(shop: Path, root: Path, table: str = "shop.csv", **options) -> dict:
    "The folder of `shop`'s table, in `root`."
    shutil.copytree(shop / "images", root / "images", dirs_exist_ok=True)
    options = {"attributes": ATTRIBUTES, "name_column": "name", "val": 0.3, "test": 10, "progress": False} | options
    return triplets_from_table(shop / table, "id", root=root, **options)


def test_a_table_worked_by_hand(tmp_path):
    rows = [
        "1,Red,Shirts,plain",
        "2,Blue,Shirts,plain",
        "3,Blue,Shirts,bold, with dots",
        "4,Blue,Shoes,x",
        "5,NA,Shirts,x",
        "6,Green,Hats,x",
        "7,Red",
        "9,Red,Shirts,x",
    ]
    (tmp_path / "shop.csv").write_text("\n".join(["id,colour,kind,name", *rows]) + "\n")
    for i in range(1, 8):
        photo(tmp_path / "images" / f"{i}.jpg", i)
    frame, counts = read_table(tmp_path / "shop.csv", ["id", "colour", "kind"], "name")
    assert list(counts.values()) == [8, 1, 1, 0, 0]
    products, left_out = select_products(frame, "id", ("colour", "kind"), ImageFinder(tmp_path / "images"), "name")
    assert [(p.image, p.name) for p in products][2] == ("3", "bold, with dots")
    assert left_out == {"a chosen attribute is missing": 2, "no photo": 1}
    entries = draw_triplets(products, ("colour", "kind"), per_product=9)
    both = frozenset({"2", "3"})
    assert {(e["candidate"], e["target"][0], frozenset(e["target"]), *e["changed"]) for e in entries} == {
        ("1", "2", both, "colour"),
        ("1", "3", both, "colour"),
        ("2", "1", frozenset("1"), "colour"),
        ("3", "1", frozenset("1"), "colour"),
        ("2", "4", frozenset("4"), "kind"),
        ("3", "4", frozenset("4"), "kind"),
        ("4", "2", both, "kind"),
        ("4", "3", both, "kind"),
    }
    values = {p.image: dict(zip(("colour", "kind"), p.values)) for p in products}
    for e in entries:
        changed = e["changed"][0]
        old = values[e["candidate"]][changed]
        new = values[e["target"][0]][changed]
        text = e["captions"][0]
        parser = ChangeParser({changed: [value_of(changed, v) for v in ("Red", "Blue", "Shirts", "Shoes", "Hats")]})
        assert read_change(parser, text).wanted == {changed: new.lower()} and old != new


def test_splits_share_no_product_and_no_photo(shop, tmp_path):
    report = make(shop, tmp_path)
    splits = {s: load_folder(tmp_path, s) for s in ("train", "val", "test")}
    images = {s: set(data.all_images()) for s, data in splits.items()}
    sizes = {s: len(data.split_images["all"]) for s, data in splits.items()}
    assert sizes == {"train": 74, "val": 36, "test": 10}
    assert sum(map(len, images.values())) == len(set().union(*images.values())) == 120
    assert report["usable"] == {"products": 120, "groups": 100, "in no split": 0}
    split_of = {}
    for split, names in images.items():
        split_of.update(dict.fromkeys(names, split))
    assert all(split_of[str(i)] == split_of[str(i + 100)] for i in range(20))
    assert len({split_of[str(i)] for i in range(20)}) > 1


def test_all_targets_are_listed_and_the_reference_is_not_one(shop, tmp_path):
    make(shop, tmp_path)
    for split, per_product in (("train", 5), ("val", 1), ("test", 1)):
        data = create_dataset("folder", tmp_path, split)
        products = read_products(tmp_path, split)
        assert set(products) == set(data.split_images["all"])
        assert data.default_protocol == ("table" if split == "train" else "table-new-wordings")
        for t in data.triplets:
            old = products[t.reference]["attributes"]
            new = products[t.target]["attributes"]
            assert {a for a in ATTRIBUTES if old[a] != new[a]} == set(t.changed)
            assert len(t.changed) == 1 or (split == "train" and len(t.changed) == 2)
            same = {n for n, p in products.items() if p["attributes"] == new}
            others = set()
            for name, product in products.items():
                differing = tuple(a for a in ATTRIBUTES if product["attributes"][a] != old[a])
                if differing == t.changed:
                    others.add(name)
            refused = split == "train" and set(t.targets) != same
            assert set(t.targets) == (others if refused else same)
            assert t.reference not in t.targets
        references = [t.reference for t in data.triplets]
        assert max(map(references.count, references)) == per_product
        assert len({(t.reference, t.target) for t in data.triplets}) == len(data)


def test_new_wordings_word_the_same_changes_and_two_changes_are_two(shop, tmp_path):
    make(shop, tmp_path)
    known = {c for t in load_folder(tmp_path, "train").triplets for c in t.captions}
    for split in ("val", "test"):
        data = load_folder(tmp_path, split)
        products = read_products(tmp_path, split)
        new = data.query_set("new-wordings")
        assert [(t.reference, t.targets) for t in new.triplets] == [(t.reference, t.targets) for t in data.triplets]
        assert all(len(set(t.captions)) == 4 and not known & set(t.captions) for t in new.triplets)
        assert len(new.single_captions()) == 4 * len(data)
        for t in data.query_set("two-changes").triplets:
            old = products[t.reference]["attributes"]
            wanted = products[t.target]["attributes"]
            assert len(t.changed) == 2 and {a for a in old if old[a] != wanted[a]} == set(t.changed)
            assert set(t.targets) == {n for n, p in products.items() if p["attributes"] == wanted}


def test_a_folder_prepared_without_new_wordings_says_so(shop, tmp_path):
    make(shop, tmp_path)
    for file in tmp_path.glob("triplets.val.*.json"):
        file.unlink()
    data = load_folder(tmp_path, "val")
    assert data.default_protocol == "table"
    assert "no queries named 'new-wordings'" in sentence(protocols_for, data, ["table-new-wordings"])
    assert max(len(t.targets) for t in load_folder(tmp_path, "val").triplets) > 1


def test_csv_and_parquet_give_the_same_files(shop, tmp_path):
    csv = make(shop, tmp_path / "csv")
    parquet = make(shop, tmp_path / "parquet", "shop.parquet")
    assert csv["splits"] == parquet["splits"] and csv["usable"] == parquet["usable"]
    for path in (tmp_path / "csv").glob("*.*.*"):
        assert path.read_bytes() == (tmp_path / "parquet" / path.name).read_bytes()
    assert len(list((tmp_path / "csv").glob("*.*.*"))) == 13


def test_parquet_ids_that_are_floats_become_integers(tmp_path):
    pd.DataFrame({"id": [1.0, None, 3.0], "colour": ["Red", None, "Blue"]}).to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", ["id"])[0].values.tolist() == [["1", "Red"], ["", ""], ["3", "Blue"]]


def test_seed_and_options_decide_and_older_files_are_deleted(shop, tmp_path):
    make(shop, tmp_path)
    first = (tmp_path / "triplets.train.json").read_bytes()
    report = make(shop, tmp_path, seed=1, test=0)
    assert set(report["splits"]) == {"train", "val"} and not list(tmp_path.glob("*.test.*"))
    assert (tmp_path / "triplets.train.json").read_bytes() != first
    (tmp_path / "gallery.val.txt").unlink()
    assert make(shop, tmp_path, seed=1, test=0) == report and (tmp_path / "gallery.val.txt").is_file()
    make(shop, tmp_path)
    assert (tmp_path / "triplets.train.json").read_bytes() == first
    assert make(shop, tmp_path, queries=5)["splits"]["val"]["triplets"] == 5


def test_unreadable_photos_and_equal_names_are_counted(shop, tmp_path):
    shutil.copytree(shop / "images", tmp_path / "images")
    (tmp_path / "images" / "50.jpg").write_bytes(b"no photo")
    report = make_from(shop, tmp_path)
    assert report["left out"] == {"photo unreadable": 1} and report["usable"]["products"] == 119
    frame = pd.read_csv(shop / "shop.csv").assign(name=lambda t: t["id"] // 40)
    frame.to_csv(tmp_path / "named.csv", index=False)
    report = triplets_from_table(
        tmp_path / "named.csv", "id", ATTRIBUTES, tmp_path, "name", same_name=True, val=0.4, progress=False
    )
    assert report["usable"]["groups"] == 2  # 0–39 and 100–119 share photos, and 80–99 share a name with these


def test_a_failed_rebuild_leaves_the_dataset_as_it_was(shop, tmp_path, monkeypatch):
    other = tmp_path / "other.csv"
    pd.read_csv(shop / "shop.csv").assign(id=lambda t: "x" + t["id"].astype(str)).to_csv(other)
    first = make(shop, tmp_path)
    content = lambda: {path.name: path.read_bytes() for path in sorted(tmp_path.iterdir()) if path.is_file()}
    before = content()
    assert "No product" in sentence(make, shop, tmp_path, str(other))
    late = {"attributes": ("name",), "val": 1}  # fails once the training split is written
    assert "differ in exactly one attribute" in sentence(make, shop, tmp_path, **late)
    assert content() == before and not (tmp_path / ".building").exists()

    def killed(part, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(table_module.Path, "replace", killed)  # during the swap
        with pytest.raises(KeyboardInterrupt):
            make(shop, tmp_path, test=0, seed=1)
    assert "triplets.test.json" not in content()
    assert make(shop, tmp_path) == first and content() == before  # the files decide, not the earlier report
    replace = table_module.Path.replace
    moved = []

    def killed_later(part, target):
        if moved:
            raise KeyboardInterrupt
        moved.append(replace(part, target))

    with monkeypatch.context() as m:
        m.setattr(table_module.Path, "replace", killed_later)
        with pytest.raises(KeyboardInterrupt):
            make(shop, tmp_path, seed=1)  # files of the same names, of which one is new
    assert make(shop, tmp_path) == first and content() == before
    assert "test" not in make(shop, tmp_path, test=0)["splits"] and "triplets.test.json" not in content()


def test_one_process_writes_a_dataset(shop, tmp_path):
    make(shop, tmp_path)
    with locked(tmp_path, ""):
        assert f"{tmp_path} is in use by" in sentence(make, shop, tmp_path, seed=1)
    assert make(shop, tmp_path, seed=1)["options"]["seed"] == 1


def make_from(shop: Path, root: Path) -> dict:
    "The folder of `shop`'s table, with the photos that `root` already has."
    return triplets_from_table(shop / "shop.csv", "id", ATTRIBUTES, root, "name", progress=False)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"attributes": ("color",)}, ("'color'", "'colour'")),
        ({"attributes": ()}, ("(none)",)),
        ({"attributes": ("kind", "kind")}, ("each named once",)),
        ({"where": {"kind": ["shirts"]}}, ("'shirts'", "Shirts")),
        ({"train": 500}, ("120 products", "train 500")),
        ({"val": None}, ("Only one split",)),
        ({"val": -1}, ("120 products", "val -120", "numbers that fit")),
        ({"per_product": 0}, ("--per-product 0",)),
        ({"attributes": ("name",), "val": 1}, ("1 products of val", "name")),
        ({"table": "none.csv"}, ("none.csv", "--table")),
        ({"table": "images"}, ("no table",)),
    ],
)
def test_wrong_options_are_explained(shop, tmp_path, options, words):
    message = sentence(make, shop, tmp_path, **options)
    assert all(word in message for word in words), message


def test_wrong_tables_are_explained(tmp_path, monkeypatch):
    for name, content, word in (
        ("empty.csv", b"", "empty"),
        ("damaged.csv", "id,colour\n1,gr\u00fcn \u00e9\n".encode() + b"2,bl\xfc\n", "UTF-8"),
        ("shop.doc", b"x", "neither .csv, .tsv, .parquet nor .jsonl"),
        ("broken.parquet", b"x", "Parquet"),
        ("twice.csv", b"id,id\n1,2\n", "twice"),
    ):
        (tmp_path / name).write_bytes(content)
        message = sentence(read_table, tmp_path / name)
        assert name in message and word in message
    (tmp_path / "none.csv").write_text("id,colour\n")
    message = sentence(triplets_from_table, tmp_path / "none.csv", "id", ["colour"], tmp_path, progress=False)
    assert "No product" in message

    def without_pyarrow(path, **options):
        raise ImportError("pyarrow")

    monkeypatch.setattr(table_module.pd, "read_parquet", without_pyarrow)
    assert "pip install pyarrow" in sentence(read_table, tmp_path / "broken.parquet")


def test_a_group_that_does_not_fit_is_left_out():
    groups = np.array([0] * 8 + [8, 9])
    parts = table_module.split_products(groups, {"train": 5, "val": 1})
    assert parts in ({"train": [8], "val": [9]}, {"train": [9], "val": [8]})


def archive(path: Path, *names: str, link: str = "") -> Path:
    "A ZIP file with a little content in every member."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name in names:
            z.writestr(name, bytes(1000))
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            z.writestr(info, "/etc/passwd")
    return path


@pytest.mark.parametrize(
    "names, link, word",
    [
        (("ok.jpg", "../evil.jpg"), "", "outside its folder"),
        (("ok.jpg", "a/../../evil.jpg"), "", "outside its folder"),
        (("ok.jpg", "/evil.jpg"), "", "outside its folder"),
        (("ok.jpg", "..\\evil.jpg"), "", "outside its folder"),
        (("ok.jpg", "C:evil.jpg"), "", "outside its folder"),
        (("ok.jpg",), "evil.jpg", "contains a link"),
        (("ok.jpg", "other/ok.png"), "", "two photos named 'ok'"),
        (("readme.txt",), "", "no usable photo"),
        (("1.jpg", "2.jpg", "3.jpg"), "", "more than"),
    ],
)
def test_hostile_archives_are_refused(tmp_path, names, link, word):
    zip_file = archive(tmp_path / "photos.zip", *names, link=link)
    images = tmp_path / "root" / "images"
    assert word in sentence(unpack_images, zip_file, images, max_bytes=2500, progress=False)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["photos.zip"]


def test_photos_of_other_formats_in_an_archive_are_reported(tmp_path, capsys):
    unread = {"a/1.psd": "x", "2.SVG": "x", "__MACOSX/._1.psd": "x", "notes.txt": "x"}
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for name, content in (("some", ("a.png",)), ("none", ())):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for file in content:
                archive.write(tmp_path / file, file)
            for file, text in unread.items():
                archive.writestr(file, text)
    take_photos(tmp_path / "some.zip", tmp_path / "root")
    said = capsys.readouterr().out
    assert "some.zip: 1 image, 1 unpacked now, 4 other files skipped" in said
    assert "left out 1: .psd image (save them as JPEG or PNG)" in said and "left out 1: .svg image" in said
    message = sentence(take_photos, tmp_path / "none.zip", tmp_path / "root")
    assert "among 4 files. 1: .psd image (save them as JPEG or PNG)." in message


def test_a_damaged_archive_is_refused(tmp_path):
    zip_file = archive(tmp_path / "photos.zip", "1.jpg")
    content = bytearray(zip_file.read_bytes())
    content[36] ^= 255
    zip_file.write_bytes(content)
    assert "cannot be unpacked" in sentence(unpack_images, zip_file, tmp_path / "images", progress=False)
    assert not (tmp_path / "images" / "1.jpg").exists()


def test_a_second_run_of_the_script_changes_nothing(shop, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as z:
        for path in (shop / "images").iterdir():
            z.write(path, f"photos/{path.name}")
    command = [sys.executable, str(SCRIPT), "--table", str(shop / "shop.csv")]
    command += ["--images", str(tmp_path / "photos.zip"), "--root", str(tmp_path / "data")]
    command += ["--name-column", "name", "--attributes", *ATTRIBUTES, "--where", "kind=Shirts,Tops"]
    command += ["--train", "rest", "--val", "0.25"]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert "left out: not asked for (where)" in first.stdout
    assert len(create_dataset("folder", tmp_path / "data", "val")) > 0
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")}
    assert subprocess.run(command, capture_output=True, text=True).returncode == 0
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")}
    wrong = subprocess.run([*command, "--where", "kind"], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "COLUMN=VALUE" in wrong.stderr


def test_a_wrong_entry_is_reported_with_its_file_and_number(tmp_path):
    entry = {"candidate": "a", "target": ["b", "c"], "captions": ["is red"]}
    write_json(tmp_path / "triplets.val.json", [entry, {"candidate": "a", "captions": ["x"]}])
    message = sentence(load_folder, tmp_path)
    assert "triplets.val.json, entry 2 (index 1)" in message and "'target'" in message


class Everywhere(ImageFinder):
    "Finds an image for every name of a list, so that a table can be counted without its photos."

    def __init__(self, names):
        super().__init__()
        self._paths = dict.fromkeys(names, Path("none"))


def test_counts_of_the_real_catalogue(shared):
    if not (shared / "catalogue" / "styles.csv").is_file():
        pytest.skip(f"no shared catalogue: there is no file {shared / 'catalogue' / 'styles.csv'}")
    with zipfile.ZipFile(shared / "catalogue" / "images.zip") as z:
        photos = [Path(n).stem for n in z.namelist()]
    attributes = ("articleType", "baseColour", "gender", "usage")
    needed = ["id", *attributes, "masterCategory"]
    frame, counts = read_table(shared / "catalogue" / "styles.csv", needed, "productDisplayName")
    assert (len(photos), len(frame), list(counts.values())) == (35_615, 35_615, [35_615, 0, 0, 0, 0])
    where = {"masterCategory": ["Apparel", "Footwear"]}
    products, left_out = select_products(frame, "id", attributes, Everywhere(photos), "productDisplayName", where)
    assert (len(products), left_out) == (24_561, {"not asked for (where)": 11_029, "a chosen attribute is missing": 25})
    parts = table_module.split_products(np.arange(len(products)), {"train": 16_000, "val": 3_970})
    assert {s: len(p) for s, p in parts.items()} == {"train": 16_000, "val": 3_970}
    val = draw_triplets([products[i] for i in parts["val"]], attributes)
    train = draw_triplets([products[i] for i in parts["train"]], attributes, per_product=4)
    assert 3_950 <= len(val) <= 3_970 and 63_900 <= len(train) <= 64_000
    assert 1 <= np.median([len(e["target"]) for e in val]) <= 5
    assert {e["changed"][0] for e in val} == set(attributes)
