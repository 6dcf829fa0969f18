"`ern_shop` on a drawn shop: one command to an index, a second call that only reads, and errors before slow work."

import csv
import json
import shlex
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fashionern.cli import shop as ern_shop
from fashionern.data.catalogue.columns import Columns
from fashionern.data.drawn.drawing import Design
from fashionern.data.drawn.garments import draw_pictures
from fashionern.encoders import laptop
from fashionern.files import read_json
from fashionern.search.inventory import describe, open_store
from fashionern.training.trained import load_retriever
from fashionern.web.config import parse_app

PRODUCTS = 150
COLUMNS = ["row", "sku", "title", "colour", "pattern", "sleeve", "price"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    "A folder with shop.csv, 150 photos in photos/, and the same photos in photos.zip."
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(0)
    offered = {
        "colour": ("red", "yellow", "green", "blue"),
        "pattern": ("plain", "striped", "dotted"),
        "sleeve": ("short", "long"),
    }
    designs = {}
    for i in range(PRODUCTS):
        values = {attribute: str(rng.choice(choices)) for attribute, choices in offered.items()}
        designs[f"P{i:04}"] = Design("dress", **values, neckline="round", logo="none", length="knee")
    files = {sku: folder / "photos" / f"{sku}.jpg" for sku in designs}
    draw_pictures(designs, files, size=48, workers=1)
    with open(folder / "shop.csv", "w", newline="", encoding="utf-8") as f:
        table = csv.writer(f)
        table.writerow(COLUMNS)
        for i, (sku, design) in enumerate(designs.items()):
            title = f"Summer dress number {i}"
            table.writerow([i, sku, title, design.colour, design.pattern, design.sleeve, 10 + i % 7])
    with zipfile.ZipFile(folder / "photos.zip", "w") as z:
        for file in files.values():
            z.write(file, f"export/{file.name}")
    return folder


def flags(shop: Path, out: Path, *more) -> list[str]:
    "Flags of a call that takes seconds and writes below `out`."
    places = ["--root", out / "data", "--run-dir", out / "run", "--index", out / "index"]
    short = ["--encoder", "ern-tiny", "--warmup-epochs", 1, "--tme-epochs", 1, "--num-epochs", 1, "--num-workers", 0]
    given = ["--table", shop / "shop.csv", "--images", shop / "photos"]
    return [*map(str, [*given, *places, *short, "--device", "cpu", "--no-serve", *more])]


@pytest.fixture
def call(monkeypatch, capsys):
    "Runs `ern_shop` and returns its exit status, stdout and stderr."

    def run(arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["ern_shop", *arguments])
        with pytest.raises(SystemExit) as end:
            ern_shop.main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return run


def written(folder: Path) -> dict[Path, int]:
    "Every file below a folder, with the time when it was written."
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_one_command_from_table_to_index_and_a_second_call_that_only_reads(shop, tmp_path, call, monkeypatch):
    status, out, err = call(flags(shop, tmp_path, "--title", "Ann & Co", "--link", "https://shop.example/{sku}"))
    assert status == 0, err
    start = out.splitlines()[-1].removeprefix("Not started. To start it: ")
    page = parse_app(shlex.split(start)[1:])
    assert (page.index, page.title, page.labels, page.open) == (tmp_path / "index", "Ann & Co", ("title",), True)
    assert page.link == "https://shop.example/{sku}"
    headings = [line for line in out.splitlines() if line.startswith("Step ")]
    assert [heading.split(":")[0] for heading in headings] == [f"Step {i} of 5" for i in range(1, 6)]
    assert "Columns: id sku, name title, attributes colour, pattern, sleeve. To change them, give --id-column" in out
    assert "Of 120 queries over 30 held-out products, " in out and "(photo alone " in out
    results = {path.name for path in (tmp_path / "run").glob("results*.json")}
    assert results == {"results.json", "results.table.json", "results.table-two-changes.json"}
    first = json.loads((tmp_path / "run" / "results.json").read_text())[-1]
    assert first["protocol"] == "table-new-wordings" and first["wordings"]["first result changes"] >= 0
    assert set(first["by_change"]) <= {"colour", "pattern", "sleeve"}
    store = open_store(tmp_path / "index")
    description = describe(store)
    store.close()
    assert description["photos"] == description["with_a_row"] == PRODUCTS
    assert description["columns"].keys() == set(COLUMNS) - {"sku"}
    shown = "--labels title --title 'Ann & Co' --link 'https://shop.example/{sku}' --open --device cpu"
    assert f"ern_app --index {tmp_path / 'index'} {shown}" in out
    load_retriever(tmp_path / "run").save_pretrained(tmp_path / "hub")
    triplets = read_json(tmp_path / "data" / "report.json")["splits"]["train"]["triplets"]
    card = (tmp_path / "hub" / "README.md").read_text()
    assert f"Trained on: a product table (folder data), split train: {triplets} triplets." in card

    def never(*args, **kwargs):
        raise AssertionError("a finished run must not be trained or evaluated again")

    monkeypatch.setattr("fashionern.training.run.run_training", never)
    before = written(tmp_path / "data") | written(tmp_path / "run")
    status, again, err = call(flags(shop, tmp_path))
    assert status == 0, err
    assert again.count("Already done.") == 2 and f"{PRODUCTS} unchanged" in again
    assert written(tmp_path / "data") | written(tmp_path / "run") == before
    sentence = next(line for line in out.splitlines() if line.startswith("Of 120 queries"))
    assert sentence in again, "the same sentence about the same model"

    settings = ern_shop.training_settings(ern_shop.parse_shop(flags(shop, tmp_path)))
    assert ern_shop.finished_results(settings) is not None
    (tmp_path / "run" / "encoders.safetensors").write_bytes(b"damaged")
    assert ern_shop.finished_results(settings) is None


def test_an_interrupted_training_is_resumed(shop, tmp_path, call, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fashionern.training.run.train_tme", interrupted)
        status, out, _ = call(flags(shop, tmp_path))
    assert status == 130 and "Step 3 of 5" in out and "Step 4 of 5" not in out
    warmed_up = tmp_path / "run" / "clip.safetensors"
    before = warmed_up.stat().st_mtime_ns
    seen = {}

    def stopped_here(settings, after_warmup):
        seen["resume"] = settings.resume
        raise KeyboardInterrupt

    monkeypatch.setattr("fashionern.training.run.run_training", stopped_here)
    assert call(flags(shop, tmp_path))[0] == 130
    assert seen["resume"] and warmed_up.stat().st_mtime_ns == before


def test_an_archive_and_columns_of_ones_own(shop, tmp_path, call, monkeypatch):
    monkeypatch.setattr(ern_shop, "train", lambda settings: [])
    monkeypatch.setattr(ern_shop, "quality", lambda results: [])
    monkeypatch.setattr(ern_shop, "build_index", lambda cfg, columns: 0)
    more = ["--images", shop / "photos.zip", "--name-column", "", "--attributes", "colour", "sleeve"]
    status, out, err = call(flags(shop, tmp_path, *more, "--where", "colour=red,green,blue"))
    assert status == 0, err
    assert "id sku, name (none), attributes colour, sleeve" in out
    assert not (tmp_path / "data" / "images").is_symlink()
    options = read_json(tmp_path / "data" / "report.json")["options"]
    assert options["where"] == {"colour": ["red", "green", "blue"]} and options["sizes"]["val"] == 0.2


def rewrite(shop: Path, tmp_path: Path, change) -> Path:
    "A copy of the table with changed lines."
    lines = (shop / "shop.csv").read_text().splitlines()
    (tmp_path / "changed.csv").write_text("\n".join([lines[0], *change(lines[1:])]) + "\n")
    return tmp_path / "changed.csv"


def test_errors_before_slow_work(shop, tmp_path, call, monkeypatch):
    def refused(*more) -> str:
        status, _, err = call(flags(shop, tmp_path, *more))
        assert status == 2 and not (tmp_path / "run").exists()
        return err

    few = rewrite(shop, tmp_path, lambda lines: lines[:60])
    assert "60 usable products" in refused("--table", few) and "At least 100" in refused("--table", few)
    other = rewrite(shop, tmp_path, lambda lines: [line.replace(",P0", ",Q0") for line in lines])
    message = refused("--table", other)
    assert "No column of the table names the photos" in message
    assert all(repr(column) in message for column in COLUMNS) and "--id-column" in message
    assert "has no column 'color'" in refused("--attributes", "color")
    assert "COLUMN=VALUE" in refused("--where", "colour")
    assert "no folder or archive" in refused("--images", tmp_path / "nowhere")


def test_missing_packages_are_reported_before_the_first_step(shop, tmp_path, call, monkeypatch):
    monkeypatch.setattr(laptop, "find_spec", lambda module: None)
    status, out, err = call(flags(shop, tmp_path, "--encoder", "ern-laptop"))
    assert status == 2 and 'pip install "fashionern[laptop]"' in err
    assert "Step 1" not in out and not (tmp_path / "data").exists()


def test_a_port_in_use_is_reported_before_the_first_step(shop, tmp_path, call):
    web = pytest.importorskip("fashionern.web.app", reason="the search page needs the extra [app]")
    taken = web.listen("127.0.0.1", 0)
    try:
        status, out, err = call(flags(shop, tmp_path, "--serve", "--port", taken.getsockname()[1]))
    finally:
        taken.close()
    assert status == 2 and "Choose another --host or --port" in err and "Step 1" not in out


def test_the_page_is_served_over_the_index_with_names_as_labels(monkeypatch):
    pytest.importorskip("fashionern.web.app", reason="the search page needs the extra [app]")
    served = []
    monkeypatch.setattr("fashionern.web.app.run_app", served.append)
    columns = Columns("sku", "title", ("colour",))
    cfg = ern_shop.parse_shop(["--table", "shop.csv", "--images", "photos", "--port", "7900", "--index", "here"])
    ern_shop.serve(cfg, columns)
    assert served[0].open and served[0].port == 7900 and served[0].labels == ("title",)
    assert served[0].index == Path("here")
