"The annotation files of all datasets."

from pathlib import Path

from fashionern.data.datasets.check import check_dataset, check_sentences, check_table
from fashionern.data.datasets.circo import load_circo
from fashionern.data.datasets.cirr import load_cirr
from fashionern.data.datasets.factory import read_attributes
from fashionern.data.datasets.fashion200k import load_fashion200k
from fashionern.data.datasets.fashioniq import load_fashioniq
from fashionern.data.datasets.folder import load_folder, read_products
from fashionern.data.datasets.shoes import load_shoes
from fashionern.data.triplets import TripletDataset, apply_missing, join_captions
from fashionern.errors import ErnError
from fashionern.files import write_json

from .harness import check_sentence, target
from .hostile import documents, folders, near, write_files


def _used(data: TripletDataset, folder: Path) -> None:
    "Use a dataset as every run does."
    data.single_captions().counts()
    for triplet in data.triplets:
        join_captions(triplet.captions)
    for name in data.all_images():
        data.images.paths.get(name)
    kept = apply_missing(data.epoch(0, 1), "drop")
    write_json(folder / "out.json", {"found": kept.found, "names": data.all_images(), "ids": [t.id for t in data.triplets]})
    try:
        apply_missing(data)
    except ErnError as e:
        check_sentence(e)  # there are no images


def _drawn(render) -> None:
    from rich.console import Console

    console = Console(file=open("/dev/null", "w", encoding="utf-8"), width=120)
    console.print(render)


CAPTIONS = [{"candidate": "A1", "target": "B2", "captions": ["is red", "and longer"]}, {"candidate": "B2", "target": "A1", "captions": ["is blue", ""]}]
FASHIONIQ = folders({"captions/cap.dress.val.json": documents(CAPTIONS), "image_splits/split.dress.val.json": documents(["A1", "B2", "C3"])})


@target("fashioniq", FASHIONIQ)
def _(files: dict, folder: Path) -> None:
    write_files(files, folder)
    _used(load_fashioniq(folder, "val", ("dress",)), folder)


@target("fashioniq-test", folders({"captions/cap.shirt.test.json": documents(CAPTIONS, [{"candidate": "A1", "captions": ["x"]}]), "image_splits/split.shirt.test.json": documents(["A1", "B2"])}))
def _(files: dict, folder: Path) -> None:
    write_files(files, folder)
    _used(load_fashioniq(folder, "test", ("shirt",)), folder)


SHOES = [{"ReferenceImageName": "womens/a_1.jpg", "ImageName": "img_b.jpg", "RelativeCaption": "are higher"}, {"ReferenceImageName": "img_b.jpg", "ImageName": "a_1.jpg", "RelativeCaption": "red"}]


@target("shoes", folders({"relative_captions_shoes.json": documents(SHOES), "train_im_names.txt": near(b"t1.jpg\nt2.jpg\n"), "eval_im_names.txt": near(b"a_1.jpg\nimg_b.jpg\n")}))
def _(files: dict, folder: Path) -> None:
    write_files(files, folder)
    _used(load_shoes(folder, "val"), folder)


@target("shoes-derived", folders({"triplet.train.json": documents(SHOES), "split.train.json": documents(["a_1.jpg", "img_b.jpg"])}))
def _(files: dict, folder: Path) -> None:
    write_files(files, folder)
    _used(load_shoes(folder, "train"), folder)


LABELS = b"women/dresses/1/1_0.jpeg\t0.9\tred long dress\nwomen/dresses/2/2_0.jpeg\t0.8\tblue long dress\nwomen/dresses/3/3_0.jpeg\t1\tred dress\n"
QUERIES = b"women/dresses/1/1_0.jpeg women/dresses/2/2_0.jpeg\nwomen/dresses/3/3_0.jpeg\twomen/dresses/1/1_0.jpeg\n"
FASHION200K = folders({"labels/dress_train_detect_all.txt": near(LABELS), "labels/dress_test_detect_all.txt": near(LABELS), "test_queries.txt": near(QUERIES)})


@target("fashion200k-train", FASHION200K)
def _(files: dict, folder: Path) -> None:
    write_files(files, folder)
    _used(load_fashion200k(folder, "train"), folder)


@target("fashion200k-test", FASHION200K)
def _(files: dict, folder: Path) -> None:
    write_files(files, folder)
    _used(load_fashion200k(folder, "test"), folder)


GROUP = ["dev-1", "dev-2", "dev-3", "dev-4", "dev-5", "dev-6"]
CIRR = [
    {"pairid": 1, "reference": "dev-1", "target_hard": "dev-2", "caption": "has two", "img_set": {"id": 1, "members": GROUP}},
    {"pairid": 2, "reference": "dev-3", "target_hard": "dev-4", "caption": "", "img_set": {"id": 1, "members": GROUP}},
]


def _cirr(split: str) -> dict:
    return folders({f"captions/cap.rc2.{split}.json": documents(CIRR), f"image_splits/split.rc2.{split}.json": documents({n: f"./dev/{n}.png" for n in GROUP})})


@target("cirr", _cirr("val"))
def _(files: dict, folder: Path) -> None:
    write_files(files, folder)
    _used(load_cirr(folder, "val"), folder)


@target("cirr-test", _cirr("test1"))
def _(files: dict, folder: Path) -> None:
    write_files(files, folder)
    _used(load_cirr(folder, "test1"), folder)


COCO = {"images": [{"id": number, "file_name": f"{number:012d}.jpg"} for number in (7, 8, 9)]}
CIRCO = [
    {"id": 0, "reference_img_id": 7, "target_img_id": 8, "relative_caption": "is red", "gt_img_ids": [8, 9], "semantic_aspects": ["negation"]},
    {"id": "1", "reference_img_id": "9", "target_img_id": "000000000007", "relative_caption": "", "gt_img_ids": ["7"]},
]


@target("circo", folders({"annotations/val.json": documents(CIRCO), "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json": documents(COCO)}))
def _(files: dict, folder: Path) -> None:
    write_files(files, folder)
    _used(load_circo(folder, "val"), folder)


OWN = [{"candidate": "a.jpg", "target": ["b", "c.png"], "captions": "is red", "category": "dress"}, {"candidate": "b", "target": "a", "captions": ["x", "y"]}]
PRODUCTS = {"a": {"name": "A", "attributes": {"colour": "red"}}, "b": {"name": "B", "attributes": {"colour": "blue"}}}


@target("folder", folders({"triplets.val.json": documents(OWN), "gallery.val.txt": near(b"a\nb.jpg\nc\n"), "products.val.json": documents(PRODUCTS)}))
def _(files: dict, folder: Path) -> None:
    write_files(files, folder)
    data = load_folder(folder, "val")
    for product in read_products(folder, "val").values():
        str(product["name"])
    for row in read_attributes(folder, "val").values():
        assert all(isinstance(value, str) for value in row.values())
    _used(data, folder)


@target("data-check", FASHIONIQ, 0.5)
def _(files: dict, folder: Path) -> None:
    write_files(files, folder)
    found = check_dataset("fashioniq", folder, workers=0, progress=False)
    _drawn(check_table(found))
    for sentence in check_sentences(found):
        _drawn(sentence)
    write_json(folder / "out.json", found.as_dict())
