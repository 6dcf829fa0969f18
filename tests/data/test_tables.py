"Product tables as shops export them: no cell is changed or lost without a word, and ids find their photos."

import json
from pathlib import Path

import pandas as pd
import pytest
from error_sentence import sentence
from PIL import Image

from fashionern.data.catalogue.columns import choose_id
from fashionern.data.catalogue.table import read_table, select_products, triplets_from_table
from fashionern.data.images import ImageFinder
from fashionern.search.index import plan_update
from fashionern.search.inventory import column_warnings, read_rows
from fashionern.search.stores.folder import FolderStore

ABOUT = {"format": 1, "model": "a test", "dim": 4, "kind": "exact"}


@pytest.fixture
def write(tmp_path):
    "A function that writes the lines of a table and returns its path."

    def write_lines(*lines: str, name: str = "t.csv") -> Path:
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / name

    return write_lines


def planned(folder: Path, rows: dict) -> dict[str, dict]:
    "Photo → the row that an index of this folder would store."
    store = FolderStore.create(folder.parent / "index", ABOUT)
    plan = plan_update(store, folder, rows)
    store.close()
    return {photo.name: photo.columns for photo in plan.to_encode}


def save_photos(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name, format="PNG")
    return folder


def test_codes_stay_texts(write):
    table = write(
        "id,gtin,size,sku,exact,colour",
        "a.jpg,0012345678905,08,1_000,9007199254740993,red",
        "b.jpg,0012345678912,10,1e5,5,blue",
    )
    rows = read_rows(table, "id")
    assert rows == {
        "a.jpg": {"gtin": "0012345678905", "size": "08", "sku": "1_000", "exact": "9007199254740993", "colour": "red"},
        "b.jpg": {"gtin": "0012345678912", "size": "10", "sku": "1e5", "exact": "5", "colour": "blue"},
    }
    assert column_warnings(rows) == []
    assert read_table(table)[0]["gtin"].tolist() == ["0012345678905", "0012345678912"]


def test_an_apostrophe_marks_a_text(write):
    rows = read_rows(write("id,sku,name", "a,'30235,'68 edition", "b,'30236,it's"), "id")
    assert rows == {"a": {"sku": "30235", "name": "'68 edition"}, "b": {"sku": "30236", "name": "it's"}}


@pytest.mark.parametrize("value", ["none", "None", "NA", "N/A", "nan", "null", "NULL", "<NA>"])
def test_words_for_nothing_are_values(write, value):
    assert read_rows(write("id,hood", f"{value},{value}", "b,attached"), "id")[value] == {"hood": value}


def test_a_photo_named_na_is_a_product(write, tmp_path):
    save_photos(tmp_path / "images", "NA.jpg", "b.jpg", "c.jpg")
    frame, _ = read_table(write("id,colour,hood", "NA,red,none", "b,NA,x", "c,blue,x"), ["id"])
    products, left_out = select_products(frame, "id", ("colour",), ImageFinder(tmp_path / "images"))
    assert [(p.image, p.values) for p in products] == [("NA", ("red",)), ("c", ("blue",))]
    assert left_out == {"a chosen attribute is missing": 1}, "no sentence can ask for a colour named NA"


def test_integers_next_to_nulls_keep_all_digits(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    frame = pd.DataFrame({"id": ["a", "b"], "code": pd.array([2**53 + 1, None], dtype="Int64"), "price": [0.00001, 2]})
    table = pyarrow.Table.from_pandas(frame).replace_schema_metadata(None)  # as other programs than pandas write it
    parquet.write_table(table, tmp_path / "t.parquet")
    assert read_rows(tmp_path / "t.parquet", "id") == {
        "a": {"code": "9007199254740993", "price": 0.00001},
        "b": {"price": 2.0},
    }


@pytest.mark.parametrize(
    "cells, numbers",
    [
        (["$1,049.00", "1.049,00 €", "£20", "15"], [1049, 1049, 20, 15]),
        (["12,50", "9,00", "1049"], [12.5, 9, 1049]),
        (["€ 12.50", "", "EUR 7"], [12.5, None, 7]),
        (["1 049,00 kr", "2 000 kr", "20,- kr", "5 kr"], [1049, 2000, 20, 5]),
        (["44.90", "49.90", "1,049.00"], [44.9, 49.9, 1049]),
    ],
)
def test_prices_are_numbers_and_that_is_printed(write, capsys, cells, numbers):
    rows = read_rows(write("id,price", *(f'{i},"{cell}"' for i, cell in enumerate(cells))), "id")
    assert [row.get("price") for row in rows.values()] == numbers
    first = next(cell for cell in cells if not cell.replace(".", "").isdigit())
    assert f"column price is read as numbers, such as {first!r} as " in capsys.readouterr().err


@pytest.mark.parametrize(
    "cells", [["1,049", "15"], ["1.049 €", "2,50 €", "2.50 $"], ["402.123.45"], ["EUR 38-40"], ["12.345.678"], ["€ 08"]]
)
def test_what_can_be_read_in_two_ways_stays_text(write, capsys, cells):
    rows = read_rows(write("id,price", *(f'{i},"{cell}"' for i, cell in enumerate(cells))), "id")
    assert [row["price"] for row in rows.values()] == cells
    assert "read as numbers" not in capsys.readouterr().err


def test_a_quotation_mark_that_is_never_closed_costs_its_own_line(write, capsys):
    lines = ["id,name,price", "1.jpg,Plain tee,10", '2.jpg,"Open quote, 30', "3.jpg,Skirt,20", "4.jpg,Jeans,40"]
    table = write(*lines)
    assert list(read_rows(table, "id")) == ["1.jpg", "3.jpg", "4.jpg"]
    assert f"{table}: 1 row left out: line 3 (unbalanced quotation marks)" in capsys.readouterr().err
    table = write(*lines, '5.jpg,"Quoted, name",50', '6.jpg,"Two', 'lines",60')
    assert list(read_rows(table, "id")) == ["1.jpg", "3.jpg", "4.jpg", "5.jpg", "6.jpg"]
    assert "line 3 " in capsys.readouterr().err
    (table).write_text('id,"name\n1,x\n')
    assert "t.csv, line 1" in sentence(read_rows, table, "id")


def test_rows_in_a_value_of_several_lines_are_reported(write, capsys):
    rows = read_rows(write("id,name,price", '1,"Open,10', "2,Skirt,20", '3,Shirt",30', "4,Hat,5"), "id")
    assert list(rows) == ["1", "4"]
    assert "1 row with a value over several lines, one like a row: check the quotation marks: line 2" in (
        capsys.readouterr().err
    )
    read_rows(write("id,name,price", '1,"A soft shirt', 'in two lines",10'), "id")
    assert capsys.readouterr().err == ""


def test_a_comma_in_a_middle_column_is_reported(write, capsys):
    table = write("id,name,price,note", "1.jpg,Rock, long,20,new", "2.jpg,Skirt,30,old")
    assert read_rows(table, "id") == {"2.jpg": {"name": "Skirt", "price": 30.0, "note": "old"}}
    assert f"{table}: 1 row left out: line 2 (5 cells instead of 4" in capsys.readouterr().err
    frame, counts = read_table(table, ["id"], "note")  # also if the last column may hold commas
    assert frame["id"].tolist() == ["2.jpg"] and counts["rows left out"] == 1


def test_commas_in_the_last_column_are_put_back(write, capsys):
    table = write("id,colour,year,name", "1,red,2011,Shirt", "2,red,2012,Shirt, with collar, long", "3,red,2011,Hat,")
    assert [row["name"] for row in read_rows(table, "id").values()] == ["Shirt", "Shirt, with collar, long", "Hat"]
    assert "put back into the last column: line 3" in capsys.readouterr().err


@pytest.mark.parametrize("header", ["id,name,season", "id,name,season,,", "id , name,season,"])
def test_cells_missing_or_surplus_at_the_end(write, capsys, header):
    rows = read_rows(write(header, "1,Shirt,summer", "2,Skirt,summer,", "3,Hat,,,", "4,Cap", "5,Tee,winter,,,"), "id")
    names = ["Shirt", "Skirt", "Hat", "Cap", "Tee"]
    assert [row["name"] for row in rows.values()] == names
    assert [row.get("season") for row in rows.values()] == ["summer", "summer", None, None, "winter"]
    assert capsys.readouterr().err.count("1 row without the last cells, which are read as empty: line 5") == 1


def test_a_column_without_a_name(write, capsys):
    rows = read_rows(write(",id,price,", "0,a,5,", "1,b,6,"), "id")
    assert rows == {"a": {"price": 5.0}, "b": {"price": 6.0}}
    assert "column 1 left out: the first line gives no name" in capsys.readouterr().err


def test_a_long_cell_is_read(write):
    text = "x" * 200_000
    assert read_rows(write("id,text", f"1,{text}", f'2,"{text}"'), "id") == {"1": {"text": text}, "2": {"text": text}}


def test_json_with_a_byte_order_mark_and_nulls(tmp_path):
    rows = {"1.jpg": {"price": None, "colour": "red", "size": ""}, "./images/1.jpg": {"colour": "blue"}}
    (tmp_path / "t.json").write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
    assert read_rows(tmp_path / "t.json", "") == {"1.jpg": {"colour": "red"}}
    (tmp_path / "t.json").write_text('{"1.jpg": {"price": [1]}}')
    assert "'1.jpg'" in sentence(read_rows, tmp_path / "t.json", "")


def test_the_first_row_of_an_id_counts_everywhere(write, tmp_path, capsys):
    lines = ["1,red", "2,blue", "1,green", "./images/2,grey"]
    table = write("id,colour", *lines)
    assert read_rows(table, "id") == {"1": {"colour": "red"}, "2": {"colour": "blue"}}
    warning = f"{table}: 2 values of id in more than one row: 1, 2. The first row of each is used."
    assert warning in capsys.readouterr().err
    save_photos(tmp_path / "images", "1.jpg", "2.jpg")
    frame, _ = read_table(table, ["id"])
    products, left_out = select_products(frame, "id", ("colour",), ImageFinder(tmp_path / "images"))
    assert [p.values for p in products] == [("red",), ("blue",)] and left_out == {"id seen before": 2}
    triplets_from_table(table, "id", ["colour"], tmp_path, val=0, progress=False)
    assert warning in capsys.readouterr().err


PATHS = {  # photo → id as shops write it
    "a.JPG": "./images/a.JPG",
    "b.png": "C:\\shop\\b.png",
    "c.jpg": "https://cdn.example.com/p/c_grande.jpeg?v=12",
    "d.jpg": "d",
    "wrap-dress-navy.jpg": "https://cdn.example.com/s/files/wrap-dress-navy_2048x2048.jpg?v=1571",
    "f_grande.jpeg": "https://cdn.example.com/p/f_grande.jpeg",
    "e\u0301te\u0301.jpg": "\u00e9t\u00e9.jpg",
    "\u00e0.jpg": "a\u0300",
    "a b.jpg": "https://cdn.example.com/a%20b.jpg",
}


def test_ids_that_are_paths_addresses_or_another_form_of_unicode(write, tmp_path):
    folder = save_photos(tmp_path / "images", *PATHS)
    table = write("id,number", *(f"{given},{i}" for i, given in enumerate(PATHS.values())))
    assert planned(folder, read_rows(table, "id")) == {name: {"number": float(i)} for i, name in enumerate(PATHS)}
    frame, _ = read_table(table, ["id"])
    products, left_out = select_products(frame, "id", ("number",), ImageFinder(folder))
    assert len(products) == len(PATHS) and not left_out
    assert choose_id(frame, ImageFinder(folder).paths) == "id"


def test_an_id_in_a_folder_does_not_name_a_photo_of_another(tmp_path):
    folder = save_photos(tmp_path / "images", "men/1.jpg", "women/1.jpg", "2.jpg", "2.png")
    rows = {"C:\\shop\\women\\1.jpg": {"x": 1}, "C:\\shop\\kids\\1.jpg": {"x": 2}, "2.png": {"x": 3}}
    assert planned(folder, rows) == {"men/1.jpg": {}, "women/1.jpg": {"x": 1}, "2.jpg": {}, "2.png": {"x": 3}}


SHOPIFY = """Handle,Title,Body (HTML),Vendor,Tags,Option1 Value,Variant SKU,Variant Price,Image Src,Image Position
wrap-dress,Wrap Dress,"<p>Soft jersey.</p>
<p>Falls below the knee, ""true to size"".</p>",Atelier,"summer, midi",Navy,'30235,49.90,https://cdn.example.com/s/files/wrap-dress-navy_2048x2048.jpg?v=1571,1
wrap-dress,,,,,Sand,'30236,44.90,https://cdn.example.com/s/files/wrap-dress-sand.jpg?v=1572,2
wrap-dress,,,,,,,,https://cdn.example.com/s/files/wrap-dress-back_grande.jpeg?v=1573,3
linen-shirt,Linen Shirt,<p>Airy</p>,Atelier,linen,M,'00417,"1,049.00",https://cdn.example.com/s/files/linen-shirt.jpg,1
"""


def test_an_export_of_shopify(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(SHOPIFY)
    names = ("wrap-dress-navy.jpg", "wrap-dress-sand.jpg", "wrap-dress-back.jpg", "linen-shirt.jpg")
    folder = save_photos(tmp_path / "images", *names)
    table = read_rows(tmp_path / "t.csv")
    rows = planned(folder, table)
    assert [rows[name]["Title"] for name in names] == ["Wrap Dress"] * 3 + ["Linen Shirt"]
    assert [rows[name]["Handle"] for name in names] == ["wrap-dress"] * 3 + ["linen-shirt"]
    assert [rows[name]["Tags"] for name in names] == ["summer | midi"] * 3 + ["linen"]
    assert all("true to size" in rows[name]["Body (HTML)"] for name in names[:3])
    assert [rows[name]["Variant Price"] for name in names] == [44.9, 44.9, 44.9, 1049]
    assert [rows[name].get("Variant Price (highest)") for name in names] == [49.9, 49.9, 49.9, None]
    assert [rows[name]["Variant SKU"] for name in names] == ["30235 | 30236"] * 3 + ["00417"]
    assert table.id_column == "Image Src" and table.roles == {"product": "Handle", "lists": ["Tags", "Variant SKU"]}
    printed = capsys.readouterr().err
    assert "an export of Shopify: 4 rows, 2 products, 4 photos." in printed and "left out" not in printed


def test_photos_of_a_variant_have_its_options_and_products_without_photos_are_counted(write):
    table = read_rows(
        write(
            "Handle,Title,Option1 Name,Option1 Value,Option2 Name,Option2 Value,Variant Price,Image Src,Variant Image",
            "dress,Dress,Color,Navy,Size,S,50,n.jpg,n.jpg",
            "dress,,,Navy,,M,50,s.jpg,n.jpg",
            "dress,,,Sand,,S,60,back.jpg,s.jpg",
            "card,Gift card,Title,Default Title,,,10,,",
            ",,,,,,,lost.jpg,",
        )
    )
    assert {name: row["Color"] for name, row in table.items()} == {
        "n.jpg": "Navy",
        "s.jpg": "Sand",
        "back.jpg": "Navy | Sand",
    }
    assert [row["Size"] for row in table.values()] == ["S | M", "S", "S | M"]
    assert table.left_out == {"row without a Handle": 1, "product without a photo in the table": 1}


WOO = """ID,Type,SKU,Name,Description,Sale price,Regular price,Categories,Images,Parent,Attribute 1 name,VALUES
7,variable,HD,Hoodie,"<p>Warm.</p>
<p>Soft, ""too"".</p>",,,"Clothing > Hoodies, Sale","https://h/front.jpg?v=1, https://h/back.jpg",,Colour,"Red, Blue"
8,variation,'0081,Hoodie - Red,,39,45,,https://h/red.jpg,HD,Colour,Red
9,variation,'0082,Hoodie - Blue,,,45,,,id:7,Colour,Blue
3,simple,'0042,Cap,,,12.50,Clothing,https://h/cap.jpg,,,
4,variation,'0099,Lost,,,1,,https://h/lost.jpg,id:99,Colour,Blue
""".replace("VALUES", "Attribute 1 value(s)")


def test_an_export_of_woocommerce(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(WOO)
    folder = save_photos(tmp_path / "images", "front.jpg", "back.jpg", "red.jpg", "cap.png")
    table = read_rows(tmp_path / "t.csv")
    rows = planned(folder, table)
    assert [row["Name"] for row in rows.values()] == ["Hoodie", "Cap", "Hoodie", "Hoodie"]  # sorted by photo
    assert [row.get("Colour") for row in rows.values()] == ["Red | Blue", None, "Red | Blue", "Red"]
    assert [rows[name]["SKU"] for name in rows] == ["0081 | 0082", "0042", "0081 | 0082", "0081"]
    assert [rows[name]["Price"] for name in rows] == [39, 12.5, 39, 39]
    assert [rows[name].get("Price (highest)") for name in rows] == [45, None, 45, None]
    assert rows["red.jpg"]["Categories"] == "Clothing > Hoodies | Sale" and "too" in rows["red.jpg"]["Description"]
    assert table.product == "Product" and {row["Product"] for row in rows.values()} == {"HD", "0042"}
    assert table.left_out == {"variation whose Parent is not in the table": 1}
    assert "an export of WooCommerce: 5 rows, 2 products, 4 photos." in capsys.readouterr().err


def test_json_lines_with_several_photos(tmp_path):
    products = [
        {"sku": "0012", "name": "Tee", "price": "15 EUR", "sizes": ["S", "M"], "images": ["https://h/a.jpg", "b.jpg"]},
        {"sku": "0013", "name": "Cap", "price": "7.50 EUR", "sizes": None, "images": [{"src": "https://h/c.jpg?v=2"}]},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, products)) + "\n\n")
    folder = save_photos(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    table = read_rows(tmp_path / "t.jsonl")
    tee = {"sku": "0012", "name": "Tee", "price": 15.0, "sizes": "S | M"}
    cap = {"sku": "0013", "name": "Cap", "price": 7.5}
    assert planned(folder, table) == {"a.jpg": tee, "b.jpg": tee, "c.jpg": cap}
    assert table.roles == {"product": "sku", "lists": ["sizes"], "currencies": {"price": "EUR"}}
    (tmp_path / "t.jsonl").write_text('{"sku": 1}\n{"sku": ')
    assert "t.jsonl, line 2 is not valid JSON" in sentence(read_rows, tmp_path / "t.jsonl")


def test_a_feed_with_additional_photos(write):
    table = read_rows(
        write(
            "id,item_group_id,title,color,price,link,image_link,additional_image_link",
            'r1,tee,Tee,red,"15,00 EUR",https://s/r1,https://h/r.jpg,"https://h/r2.jpg,https://h/r3.jpg"',
            'b1,tee,Tee,blue,"15,00 EUR",https://s/b1,https://h/b.jpg,',
        )
    )
    assert [(name, row["color"]) for name, row in table.items()] == [
        ("https://h/r.jpg", "red"),
        ("https://h/r2.jpg", "red"),
        ("https://h/r3.jpg", "red"),
        ("https://h/b.jpg", "blue"),
    ]
    assert table.product == "item_group_id" and table.currencies == {"price": "EUR"}


def test_articles_are_grouped_by_a_column(write, tmp_path):
    lines = ["article_id,product_code,prod_name,colour", "0108775015,0108775,Strap top,Black"]
    table = write(*lines, "0108775044,0108775,Strap top,White", "0110065001,0110065,Bra,Black")
    folder = save_photos(tmp_path / "images", "010/0108775015.jpg", "010/0108775044.jpg", "011/0110065001.jpg")
    rows = read_rows(table, "article_id", "product_code")
    assert rows.roles == {"product": "product_code"}
    assert planned(folder, rows)["010/0108775044.jpg"] == {
        "product_code": "0108775",
        "prod_name": "Strap top",
        "colour": "White",
    }
    assert "has no column 'product'" in sentence(read_rows, table, "article_id", "product")
