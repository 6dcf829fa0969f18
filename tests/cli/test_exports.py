"Exports of Shopify and WooCommerce go from file to search page: products, prices, links, and what was left out."

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from fashionern.cli import shop as ern_shop
from fashionern.data.datasets.folder import load_folder
from fashionern.data.drawn.drawing import Design
from fashionern.data.drawn.garments import draw_pictures
from fashionern.data.products import Card
from fashionern.encoders.clip import TINY
from fashionern.files import read_json
from fashionern.search.config import parse_index
from fashionern.search.indexing import run_index
from fashionern.search.searcher import Searcher

TestClient = pytest.importorskip(
    "starlette.testclient", reason="the search page needs the extra [app], and its tests httpx"
).TestClient

from fashionern.web.app import create_app  # noqa: E402  it needs the extra too

PRODUCTS = 110
CDN = "https://cdn.example.com/s/files"
COLOURS = ("red", "yellow", "green", "blue")
SHOPIFY = (
    "Handle,Title,Body (HTML),Vendor,Type,Pattern,Tags,Option1 Name,Option1 Value,Option2 Name,Option2 Value,"
    "Variant SKU,Variant Price,Image Src,Image Position,Variant Image"
).split(",")


def draw(folder: Path, count: int) -> None:
    "Two photos of each product, `dress-12.jpg` and `dress-12-back.jpg`."
    designs, files = {}, {}
    for i in range(count):
        for side, suffix in (("a", ""), ("b", "-back")):
            name = f"{i}{side}"
            pattern = ("plain", "striped", "dotted")[i // 4 % 3]
            designs[name] = Design("dress", COLOURS[i % 4], pattern, ("short", "long")[i % 2], "round", "none", "knee")
            files[name] = folder / f"dress-{i}{suffix}.jpg"
    draw_pictures(designs, files, size=48, workers=1)


def shopify_rows(i: int) -> list[list[str]]:
    "Two to five rows of a product: a variant each, and the photos next to the first ones."
    rows = []
    for row in range(2 + i % 4):
        first = row == 0
        body = f'<p>Dress {i}.</p>\n<p>Falls to the knee, "true to size".</p>' if first else ""
        shared = [f"Dress {i}", body, "Atelier", "Dress", ("plain", "striped", "dotted")[i // 4 % 3], "summer, midi"]
        photos = [f"{CDN}/dress-{i}_2048x2048.jpg?v=15{i}", f"{CDN}/dress-{i}-back_grande.jpg?v=1"]
        photo = [photos[row], str(row + 1)] if row < 2 else ["", ""]
        names = ["Color", "Size"] if first else ["", ""]
        option = [names[0], COLOURS[i % 4].title(), names[1], "SMLX"[row % 4]]
        price = f"{20 + i + row}.50"
        rows.append([f"dress-{i}", *(shared if first else [""] * 6), *option, f"'00{i}{row}", price, *photo, ""])
    return rows


@pytest.fixture(scope="module")
def shopify(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shopify")
    draw(folder / "photos", PRODUCTS)
    (folder / "photos" / "notes.txt").write_text("not a photo")
    with open(folder / "products_export.csv", "w", newline="", encoding="utf-8") as f:
        table = csv.writer(f)
        table.writerow(SHOPIFY)
        for i in range(PRODUCTS):
            table.writerows(shopify_rows(i))
        table.writerow(["gift-card", "Gift card", *[""] * 14])
        table.writerow(["lost", "Lost", *[""] * 11, f"{CDN}/lost.jpg", "1", ""])
    return folder


def test_ern_shop_from_shopifys_export_to_the_page(shopify, tmp_path, monkeypatch, capsys):
    served = []

    def index_with_an_encoder(cfg, columns):  # a trained model is not what is tested here
        flags = ["--images", cfg.root / "images", "--encoder", TINY, "--out", cfg.index, "--table", cfg.table]
        return run_index(parse_index(["build", *map(str, flags), "--id-column", columns.id, "--device", "cpu"]))

    monkeypatch.setattr(ern_shop, "train", lambda settings: [])
    monkeypatch.setattr(ern_shop, "quality", lambda results: [])
    monkeypatch.setattr(ern_shop, "build_index", index_with_an_encoder)
    monkeypatch.setattr("fashionern.web.app.run_app", served.append)
    flags = ["--table", shopify / "products_export.csv", "--images", shopify / "photos", "--encoder", "ern-tiny"]
    places = ["--root", tmp_path / "data", "--run-dir", tmp_path / "run", "--index", tmp_path / "index"]
    page = ["--link", "https://shop.example/products/{Handle}", "--title", "Ann & Co", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["ern_shop", *map(str, [*flags, *places, *page])])
    with pytest.raises(SystemExit) as end:
        ern_shop.main()
    assert not end.value.code
    printed = capsys.readouterr()
    assert "an export of Shopify: 385 rows, 112 products, 221 photos" in printed.err
    assert "Columns: id Image Src, name Title, attributes " in printed.out and "Color" in printed.out
    assert "left out: 1 row, product without a photo in the table" in printed.out
    assert f"no photo in {tmp_path / 'data' / 'images'}" in printed.out and "no image (.txt)" in printed.out

    report = read_json(tmp_path / "data" / "report.json")
    assert report["left out"] == {"a chosen attribute is missing": 1, "product without a photo in the table": 1}
    splits = {split: load_folder(tmp_path / "data", split) for split in ("train", "val")}
    train, val = (set(data.products.values()) for data in splits.values())
    assert train and val and not train & val, "a product is in one split"
    for data in splits.values():
        for triplet in data.triplets:
            positives = set(triplet.targets)
            for target in triplet.targets:
                assert {name for name, p in data.products.items() if p == data.products[target]} <= positives

    (cfg,) = served
    searcher = Searcher.load(cfg.index, device="cpu", link=cfg.link)
    with TestClient(create_app(searcher, title=cfg.title), base_url="http://localhost") as client:
        assert client.get("/api/about").json()["products"] == PRODUCTS and "Ann &amp; Co" in client.get("/").text
        hits = client.post("/api/search", json={"text": "a dress", "k": 200}).json()["hits"]
    searcher.store.close()
    assert sorted(hit["product"] for hit in hits) == sorted(f"dress-{i}" for i in range(PRODUCTS))
    for hit in hits:
        i = int(hit["product"].removeprefix("dress-"))
        assert hit["title"] == f"Dress {i}" and hit["link"] == f"https://shop.example/products/dress-{i}"
        assert hit["price"] == f"{20.5 + i:,.2f} – {21.5 + i + i % 4:,.2f}"
        columns = hit["columns"]
        assert columns["Color"] == COLOURS[i % 4].title() and columns["Size"] == " | ".join("SMLXS"[: 2 + i % 4][:4])
        assert columns["Variant SKU"].startswith(f"00{i}0 | 00{i}1") and "true to size" in columns["Body (HTML)"]


def test_ern_index_from_woocommerces_export(tmp_path, capsys):
    draw(tmp_path / "photos", 3)
    head = ["ID", "Type", "SKU", "Name", "Description", "Regular price", "Images", "Parent", "External URL"]
    rows = [[*head, "Attribute 1 name", "Attribute 1 value(s)"]]
    for i in range(3):
        images = f"{CDN}/dress-{i}.jpg?v=3, {CDN}/dress-{i}-back.jpg"
        description = f"<p>Dress {i}</p>\n<p>Soft.</p>"
        link = f"https://shop.example/?p={i}"
        rows.append([i, "variable", f"D{i}", f"Dress {i}", description, "", images, "", link, "Size", "S, M"])
        for k, size in enumerate("SM"):
            variation = [10 + 2 * i + k, "variation", f"'0{i}{k}", f"Dress {i} - {size}", "", f"{30 + i + k},00 €"]
            rows.append([*variation, "", f"D{i}", "", "Size", size])
    rows.append([99, "variation", "x", "Lost", "", "1,00 €", "", "id:77", "", "Size", "S"])
    with open(tmp_path / "woo.csv", "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows(rows)
    flags = ["--images", tmp_path / "photos", "--encoder", TINY, "--out", tmp_path / "index"]
    table = ["--table", tmp_path / "woo.csv", "--device", "cpu"]
    assert run_index(parse_index(["build", *map(str, [*flags, *table])])) == 0
    printed = capsys.readouterr()
    assert f"left out:\n  1  {tmp_path / 'woo.csv'}  variation whose Parent is not in the table" in printed.out
    searcher = Searcher.load(tmp_path / "index", device="cpu")
    hits = searcher.search(text="a dress", k=9)
    by_name = {hit.product: hit for hit in hits}
    small = searcher.search(text="a dress", k=9, where="Size = 'S' and \"Regular price\" < 31")
    searcher.store.close()
    assert sorted(by_name) == ["D0", "D1", "D2"] and all(len(hit.photos) == 2 for hit in hits)
    assert by_name["D1"].card == Card("Dress 1", "31 – 32 €", "https://shop.example/?p=1")
    assert by_name["D1"].columns["SKU"] == "010 | 011" and [hit.product for hit in small] == ["D0"]
    assert np.all(np.diff([hit.score for hit in hits]) <= 0)
