"Tables as shop systems, spreadsheets and feeds write them: encodings, separators, languages, prices, several photos."

import codecs
import csv
import io
import json
import re
import unicodedata
from pathlib import Path
from urllib.parse import quote

import pytest
from error_sentence import sentence
from PIL import Image

from fashionern.data.catalogue.columns import choose_attributes
from fashionern.data.catalogue.table import read_table, select_products
from fashionern.data.images import ImageFinder, scan_images
from fashionern.data.products import product_card
from fashionern.data.tables import currency_of, match_rows, numbers_of
from fashionern.errors import ErnError
from fashionern.search.inventory import read_rows
from fashionern.search.query import Query, read_queries

ROWS = [["id", "name", "price"], ["1.jpg", "Größe; weit, blau", "1.049,00 €"], ["2.jpg", 'Rock "Été"', "19,90 €"]]
READ = {
    "1.jpg": {"name": "Größe; weit, blau", "price": 1049.0},
    "2.jpg": {"name": 'Rock "Été"', "price": 19.9},
}


def written(rows: list[list[str]], delimiter: str, end: str = "\r\n") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows(rows)
    return text.getvalue()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_every_separator_and_encoding_of_spreadsheets(tmp_path, delimiter, encoding):
    (tmp_path / "t.csv").write_bytes(written(ROWS, delimiter).encode(encoding))
    assert read_rows(tmp_path / "t.csv") == READ


@pytest.mark.parametrize("bom, encoding", [(codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")])
def test_the_two_forms_of_utf_16_with_a_byte_order_mark(tmp_path, bom, encoding):
    (tmp_path / "t.txt").write_bytes(bom + written(ROWS, "\t").encode(encoding))
    assert read_rows(tmp_path / "t.txt") == READ


def test_excels_line_that_names_the_separator(tmp_path, capsys):
    rows = written([*ROWS, ["3.jpg", "x", "y", "z"]], ";")
    for first in ("sep=;\r\n", '"sep=;"\r\n', "SEP=;\r\n"):
        (tmp_path / "t.csv").write_text(first + rows, encoding="utf-8", newline="")
        assert read_rows(tmp_path / "t.csv") == READ
        wrong = "line 5 (4 cells instead of 3, so a semicolon is not in quotation marks)"
        assert wrong in capsys.readouterr().err, "lines are counted from the first one of the file"


def test_a_name_with_the_separator_of_another_country(tmp_path):
    for header, delimiter in (('id,"size; EU; US; UK",price', ","), ('id;"size, EU, US, UK";price', ";")):
        (tmp_path / "t.csv").write_text(f"{header}\n{delimiter.join(['1.jpg', '38', '5'])}\n")
        assert list(read_rows(tmp_path / "t.csv")["1.jpg"].values()) == [38, 5]
    (tmp_path / "t.csv").write_text("id;size, EU;price\n1.jpg;38;5\n")
    assert read_rows(tmp_path / "t.csv") == {"1.jpg": {"size, EU": 38, "price": 5}}


def test_the_repairs_of_commas_work_for_semicolons(tmp_path, capsys):
    (tmp_path / "t.csv").write_text('id;colour;name\n1;red;Shirt\n2;red;Shirt; long\n3;"open;x\n4;red\n')
    rows = read_rows(tmp_path / "t.csv")
    assert rows["2"] == {"colour": "red", "name": "Shirt; long"} and list(rows) == ["1", "2", "4"]
    printed = capsys.readouterr().err
    assert "unquoted semicolons, which were put back" in printed and "line 4 (unbalanced" in printed


def test_windows_1252_is_said_and_damaged_utf_8_is_refused(tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_bytes("id,name\n1.jpg,Rock\n2.jpg,Größe 5 €\n".encode("cp1252"))
    assert read_rows(table)["2.jpg"] == {"name": "Größe 5 €"}
    assert "is not UTF-8 and is read as Windows-1252, such as 'Größe' in line 3" in capsys.readouterr().err
    table.write_bytes("id,name\n1.jpg,Größe ünd Länge\n2.jpg,Gr\n".encode() + b"\xf6\xdfe\n")
    message = sentence(read_rows, table)
    assert "line 4" in message and "UTF-8" in message, "most of the file is UTF-8, so it is not Windows-1252"
    table.write_bytes(b"id,name\n1.jpg,a\x81b\n")
    assert "line 2" in sentence(read_rows, table)


def test_lines_of_separators_alone_are_no_rows(tmp_path, capsys):
    text = "Handle,Title,Image Src\na,A,a.jpg\n,,\n , ,\n"
    (tmp_path / "t.csv").write_text(text)
    table = read_rows(tmp_path / "t.csv")
    assert table.left_out == {} and read_table(tmp_path / "t.csv")[1]["rows"] == 1


def test_workbooks_are_refused_with_the_way_out(tmp_path):
    for name in ("t.xlsx", "t.XLS", "t.ods", "t.numbers"):
        (tmp_path / name).write_bytes(b"PK")
        assert "Save the sheet as CSV (UTF-8)" in sentence(read_rows, tmp_path / name)


@pytest.mark.parametrize(
    "cells, numbers, currency",
    [
        (["$1,049.00 USD", "$20.00 USD"], [1049, 20], "USD"),
        (["₹1,04,900.00", "₹899"], [104900, 899], "₹"),
        (["Rs. 1,499/-", "Rs. 20/-"], [1499, 20], "Rs"),
        (["CA$1,049.00", "CA$ 5"], [1049, 5], "CA$"),
        (["1 049,00 €", "2\u2009000,50 €"], [1049, 2000.5], "€"),
        (["Fr. 1'049.50", "SFr. 20.-"], [1049.5, 20], ""),
        (["1.049,00 TL", "20 TL"], [1049, 20], "TL"),
        (["RM 1,049.00", "RM20"], [1049, 20], "RM"),
        (["￥1,049", "￥20"], [1049, 20], "￥"),
        (["1.049,00 лв.", "5 лв"], [1049, 5], "лв"),
        (["€ 1.049,-", "€ 20,-"], [1049, 20], "€"),
        (["19,90\u00a0€", "5\u00a0€"], [19.9, 5], "€"),
        (["IDR 150.000", "IDR 20.000"], [150000, 20000], "IDR"),
    ],
)
def test_prices_of_other_countries(cells, numbers, currency):
    found = numbers_of(cells)
    assert found is not None and found.values == numbers
    known = {currency_of(cell) for cell in cells}
    assert currency in known or not currency


@pytest.mark.parametrize("cells", [["REF 100"], ["$5 $6"], ["1,04,90"], ["€5€"], ["RM 38", "RM 40"], ["1,2,345"]])
def test_what_is_no_price_stays_text(cells):
    assert numbers_of(cells) is None


NEW_SHOPIFY = (
    "Title,URL handle,Description,Vendor,Tags,Status,SKU,Option1 name,Option1 value,Price,Compare-at price,"
    "Cost per item,Product image URL,Image position,Image alt text,Variant image URL"
).split(",")


def test_shopifys_newer_columns(tmp_path, capsys):
    rows = [
        ["Dress", "dress", "<p>Soft</p>", "A", "summer, midi", "Active", "01", "Color", "Navy", "49.90", "60", "9"]
        + ["https://h/n.jpg", "1", "Front", "https://h/n.jpg"],
        ["", "dress", "", "", "", "", "02", "", "Sand", "44.90", "", "8"] + ["https://h/s.jpg", "2", "", "https://h/s.jpg"],
        ["", "dress", "", "", "", "", "", "", "", "", "", ""] + ["https://h/back.jpg", "3", "Back", ""],
    ]
    (tmp_path / "t.csv").write_text(written([NEW_SHOPIFY, *rows], ","))
    table = read_rows(tmp_path / "t.csv")
    assert "an export of Shopify: 3 rows, 1 product, 3 photos" in capsys.readouterr().err
    assert (table.id_column, table.product) == ("Product image URL", "URL handle")
    assert [row["Color"] for row in table.values()] == ["Navy", "Sand", "Navy | Sand"]
    back = table["https://h/back.jpg"]
    assert (back["Price"], back["Price (highest)"], back["SKU"]) == (44.9, 49.9, "01 | 02")
    assert back["Tags"] == "summer | midi" and not {"Image alt text", "Option1 name"} & back.keys()
    assert product_card(back).title == "Dress" and product_card(back).price == "44.90 – 49.90"


def test_shopifys_prices_of_markets_belong_to_variants(tmp_path):
    header = "Handle,Title,Option1 Name,Option1 Value,Variant Price,Image Src,"
    header += "Included / US,Price / US,Compare At Price / US"
    rows = ["d,Dress,Size,S,10,https://h/d.jpg,true,12.50,", "d,,,M,9,,true,8.00,20.00"]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]))
    (row,) = read_rows(tmp_path / "t.csv").values()
    assert (row["Price / US"], row["Price / US (highest)"], row["Compare At Price / US"]) == (8, 12.5, 20)


def test_a_product_whose_first_row_has_no_photo_keeps_its_options(tmp_path):
    header = "Handle,Title,Option1 Name,Option1 Value,Variant Price,Image Src"
    (tmp_path / "t.csv").write_text("\n".join([header, "d,Dress,Size,S,10,", "d,,,M,9,https://h/d.jpg"]))
    assert read_rows(tmp_path / "t.csv")["https://h/d.jpg"]["Size"] == "S | M"


def test_the_photo_of_a_variant_with_another_size_or_version_in_its_address(tmp_path):
    header = "Handle,Title,Option1 Name,Option1 Value,Variant Price,Image Src,Variant Image"
    rows = ["d,Dress,Color,Navy,10,https://h/n.jpg?v=1,https://h/n_600x.jpg?v=2", "d,,,Sand,9,https://h/s.jpg,"]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]))
    table = read_rows(tmp_path / "t.csv")
    assert {id_: row["Color"] for id_, row in table.items()} == {
        "https://h/n.jpg?v=1": "Navy",
        "https://h/s.jpg": "Navy | Sand",
    }


def test_products_that_are_not_on_sale_are_said(tmp_path, capsys):
    header = "Handle,Title,Image Src,Status"
    rows = ["a,A,a.jpg,active", "b,B,b.jpg,draft", "c,C,c.jpg,archived", "c,,c2.jpg,"]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]))
    table = read_rows(tmp_path / "t.csv")
    assert table["c2.jpg"]["Status"] == "archived"
    assert "3 products, 4 photos; Status is 'draft' for 1 product and 'archived' for 1" in capsys.readouterr().err


@pytest.mark.parametrize("published, visibility", [
    ("Published", "Visibility in catalog"),
    ("Veröffentlicht", "Sichtbarkeit im Katalog"),
    ("Publié", "Visibilité dans le catalogue"),
])
def test_products_of_woocommerce_that_customers_cannot_see_are_said(tmp_path, capsys, published, visibility):
    names = "Images,Parent" if published != "Veröffentlicht" else "Bilder,Übergeordnetes Produkt"
    header = f"ID,Type,Name,{published},{visibility},{names}"
    rows = ["1,simple,A,1,visible,a.jpg,", "2,simple,B,-1,visible,b.jpg,", "3,simple,C,0,hidden,c.jpg,"]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    assert len(read_rows(tmp_path / "t.csv")) == 3
    said = f"; {published} is '-1' for 1 product and '0' for 1 product; {visibility} is 'hidden' for 1 product"
    assert f"3 photos{said}; ern_app --where hides them." in capsys.readouterr().err


def test_columns_of_the_shop_system_are_no_attributes(tmp_path):
    header = "ID,Type,SKU,Name,Tax status,Images,Parent,Status,Kind"
    rows = []
    for i in range(12):
        kinds = ["simple", "variable"][i % 2], ["taxable", "none"][i // 6], ["active", "draft"][i // 3 % 2]
        kind = ["Dress", "Shirt"][i // 4 % 2]
        rows.append(f"{i},{kinds[0]},S{i},Dress {i},{kinds[1]},https://h/{i}.jpg,,{kinds[2]},{kind}")
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]))
    frame, _ = read_table(tmp_path / "t.csv")
    assert choose_attributes(frame, ("Images", "Name")) == ("Kind",)


def test_a_photo_of_two_products(tmp_path, capsys):
    header = "Handle,Title,Image Src"
    rows = ["a,A,https://h/look.jpg?v=1", "b,B,https://h/look.jpg?v=2", "b,,https://h/b.jpg", "c,C,https://h/look.jpg"]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]))
    table = read_rows(tmp_path / "t.csv")
    assert [row["Handle"] for row in table.values()] == ["a", "b"]
    assert table.left_out == {
        "photo of several products, kept for the first, such as https://h/look.jpg?v=2": 2,
        "product whose photos all belong to other products: c": 1,
    }


WOO = {  # language: header, price of the dress
    "German": "ID,Typ,Artikelnummer,Name,Veröffentlicht,Kurzbeschreibung,Angebotspreis,Regulärer Preis,Kategorien,"
    "Schlagwörter,Bilder,Übergeordnetes Produkt,Externe URL,Position,Attribut 1 Name,Attribut 1 Wert(e),"
    "Attribut 1 Sichtbar,Attribut 1 Global,Attribut 1 Standard",
    "French": "ID,Type,UGS,Nom,Publié,Description courte,Tarif promo,Tarif régulier,Catégories,Étiquettes,Images,"
    "Parent,URL externe,Position,Nom de l’attribut 1,Valeur(s) de l’attribut 1 ,Attribut 1 visible,Attribut 1 global,"
    "Attribut 1 par défaut",
    "Spanish": "ID,Tipo,SKU,Nombre,Publicado,Descripción corta,Precio rebajado,Precio normal,Categorías,Etiquetas,"
    "Imágenes,Superior,URL externa,Posición,Nombre del atributo 1,Valor(es) del atributo 1,Atributo visible 1,"
    "Atributo global 1,Atributo por defecto 1",
    "Italian": "ID,Tipo,COD,Nome,Pubblicato,Breve descrizione,Prezzo in offerta,Prezzo di listino,Categorie,Etichette,"
    "Immagine,Genitore,URL esterna,Posizione,Attributo 1 nome,Attributo 1 valore(i),Attributo 1 visibile,"
    "Attributo 1 globale,Attributo 1 predefinito",
    "English": "ID,Type,SKU,Name,Published,Short description,Sale price,Regular price,Categories,Tags,Images,Parent,"
    "External URL,Position,Attribute 1 name,Attribute 1 value(s),Attribute 1 visible,Attribute 1 global,"
    "Attribute 1 default",
}


@pytest.mark.parametrize("language", WOO)
@pytest.mark.parametrize("delimiter, form", [(",", "NFC"), (";", "NFD")])
def test_exports_of_woocommerce_in_other_languages(tmp_path, capsys, language, delimiter, form):
    header = next(csv.reader([unicodedata.normalize(form, WOO[language])]))
    link = "https://shop.example/kleid"
    photos = "https://h/a-scaled.jpg, https://h/b-300x300.jpg"
    rows = [
        ["7", "variable", "K1", "Kleid", "1", "Weich", "", "", "Damen > Kleider, Neu", "a, b", photos, "", link, "1"]
        + ["Farbe", "Rot, Blau", "1", "1", "Rot"],
        ["8", "variation, virtual", "'0081", "Kleid - Rot", "1", "", "39,90", "45,00", "", "", "https://h/r.jpg", "K1"]
        + ["", "1", "Farbe", "Rot", "", "1", ""],
        ["9", "variation", "'0082", "Kleid - Blau", "1", "", "", "45,00", "", "", "", "id:7", "", "2"]
        + ["Farbe", "Blau", "", "1", ""],
    ]
    (tmp_path / "t.csv").write_text(written([header, *rows], delimiter), encoding="utf-8-sig")
    table = read_rows(tmp_path / "t.csv")
    assert "an export of WooCommerce: 3 rows, 1 product, 3 photos" in capsys.readouterr().err
    assert table.left_out == {} and match_rows(["a.jpg", "b.jpg", "r.jpg"], table).keys() == {"a.jpg", "b.jpg", "r.jpg"}
    first, _, red = table.values()
    assert first["Farbe"] == "Rot | Blau" and red["Farbe"] == "Rot"
    assert (first["Price"], first["Price (highest)"], red["Price"]) == (39.9, 45, 39.9)
    assert first[header[2]] == "0081 | 0082"
    assert first[header[8]] == "Damen > Kleider | Neu" and first[header[9]] == "a | b"
    assert not {header[10], header[11], header[13], *header[14:]} & first.keys()
    card = product_card(first)
    assert (card.title, card.price, card.link) == ("Kleid", "39.90 – 45.00", link)


def test_two_woocommerce_products_with_one_sku_or_one_row_twice(tmp_path):
    header = "ID,Type,SKU,Name,Regular price,Images,Parent"
    rows = ["1,simple,S,Hat,5,https://h/1.jpg,", "2,simple,S,Chapeau,6,https://h/2.jpg,", "1,simple,S,Hat,5,https://h/1.jpg,"]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]))
    table = read_rows(tmp_path / "t.csv")
    assert {id_: (row["Name"], row["Price"]) for id_, row in table.items()} == {
        "https://h/1.jpg": ("Hat", 5),
        "https://h/2.jpg": ("Chapeau", 6),
    }
    assert table.left_out == {"product that is in the table already": 1}


def test_apostrophes_before_formulas_are_marks(tmp_path):
    (tmp_path / "t.csv").write_text("id,name\n1,'-20% Sale\n2,'@home\n3,'=sum\n4,'n roll\n5,'+1 hat\n")
    names = [row["name"] for row in read_rows(tmp_path / "t.csv").values()]
    assert names == ["-20% Sale", "@home", "=sum", "'n roll", "+1 hat"]


NAMES = {  # photo → ids that stand for it
    "a b.jpg": ("https://h/a%20b.jpg", "a%20b.jpg", "a b", "//cdn.example.com/a%20b.jpg?v=3"),
    "c%20d.jpg": ("https://h/c%20d.jpg", "c%20d.jpg", "c%20d"),
    "été.JPG": ("https://h/%C3%A9t%C3%A9.jpg", "e\u0301te\u0301.jpg", "/media/%C3%A9t%C3%A9.jpg?v=1"),
    "e.jpg": ("/media/catalog/e.jpg?width=300", "e.jpg?v=15", "https://h/e_600x600_crop_center.jpg", "https://h/e@2x.jpg"),
    "f.jpg": ("https://h/wp/f-scaled.jpg", "https://h/wp/f-1024x768.jpg", "https://h/f_800x.progressive.jpg"),
    "g-300x300.jpg": ("https://h/g-300x300.jpg", "g-300x300"),
    "h.jpg.webp": ("https://h/h.jpg.webp", "h.jpg"),
    "sub/i.PNG": ("i", "sub/i.png", "\\\\server\\share\\sub\\i.png", "https://h/uploads/sub/i.png"),
}


@pytest.mark.parametrize("photo, given", [(photo, given) for photo, several in NAMES.items() for given in several])
def test_names_in_addresses_and_paths(tmp_path, photo, given):
    assert match_rows([photo, "other.jpg"], [given, "x"]) == {photo: given}
    (tmp_path / photo).parent.mkdir(exist_ok=True)
    Image.new("RGB", (4, 4)).save(tmp_path / photo, format="PNG")
    (tmp_path / "t.csv").write_text(written([["id", "colour"], [given, "red"]], ","), encoding="utf-8")
    frame, _ = read_table(tmp_path / "t.csv")
    finder = ImageFinder(tmp_path)
    products, left_out = select_products(frame, "id", ("colour",), finder)
    if "/" not in photo or given == "sub/i.png":
        assert [finder(product.image).name for product in products] == [Path(photo).name], left_out


def test_an_exact_name_wins_over_one_without_its_size():
    ids = ["https://h/f-300x300.jpg", "https://h/f.jpg"]
    assert match_rows(["f.jpg", "f-300x300.jpg"], ids) == {"f.jpg": ids[1], "f-300x300.jpg": ids[0]}
    assert match_rows(["x-300x300.jpg", "x.jpg"], ["x-300x300.jpg"]) == {"x-300x300.jpg": "x-300x300.jpg"}, "no address"


def test_the_same_photo_in_two_folders_has_the_row_in_both():
    assert match_rows(["new/1.jpg", "old/1.jpg"], ["1.jpg"]) == {"new/1.jpg": "1.jpg", "old/1.jpg": "1.jpg"}


def test_downloads_with_a_query_in_their_name_are_one_reason(tmp_path):
    for name in ("a.jpg?v=1", "b.jpg?v=2", "c.png&w=3", "d.jfif", "e.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name, format="JPEG")
    scan = scan_images(tmp_path)
    assert [path.name for path in scan.files] == ["d.jfif", "e.jpg"]
    assert scan.left_out == {"image with a query in its name (remove all after .jpg)": 3}


def test_without_an_id_column_the_one_that_names_the_most_photos_is_used(tmp_path, capsys):
    photos = ["red dress front.jpg", "blue dress.jpg", "coat.jpg"]
    rows = [["Artikel", "Bild", "Preis"], *([str(i), photo, "5,00 €"] for i, photo in enumerate(photos))]
    (tmp_path / "t.csv").write_text(written(rows, ";"))
    table = read_rows(tmp_path / "t.csv", photos=photos)
    assert table.id_column == "Bild" and match_rows(photos, table) == {photo: photo for photo in photos}
    assert "column Bild names 3 photos. To change it, give --id-column." in capsys.readouterr().err
    with pytest.raises(ErnError, match="no column 'id'"):
        read_rows(tmp_path / "t.csv", photos=["other.jpg"])


def test_a_feed_whose_addresses_name_more_photos_than_its_ids(tmp_path, capsys):
    photos = ["red-dress front.jpg", "blue-dress.jpg", "coat.jpg"]
    feed = [{"id": name.split(".")[0].split()[0], "image_link": f"https://h/{quote(name)}?v=1"} for name in photos]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, feed)))
    table = read_rows(tmp_path / "t.jsonl", photos=photos)
    assert match_rows(photos, table).keys() == set(photos) and table.id_column == "image_link"
    assert read_rows(tmp_path / "t.jsonl", photos=photos[1:]).id_column == "id", "with equal counts, the id"
    assert read_rows(tmp_path / "t.jsonl", "id", photos=photos).id_column == "id"
    assert capsys.readouterr().err.count("names") == 1


def test_an_error_lists_whole_names_of_columns(tmp_path):
    columns = [f"Meta: a long name of a column, number {i}" for i in range(60)]
    (tmp_path / "t.csv").write_text(written([columns, ["x"] * 60], ","))
    with pytest.raises(ErnError) as raised:
        read_rows(tmp_path / "t.csv", "id")
    assert re.search(r"number \d+' and \d\d more\. Check", str(raised.value))


def test_json_lines_with_line_separators_in_texts(tmp_path):
    rows = [{"id": "a.jpg", "text": "one\u2028two\u0085three\x0b", "tags": ["x", "y"], "new": True}, {"id": "b.jpg"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "t.jsonl").write_text("\r\n".join(lines), encoding="utf-8")
    table = read_rows(tmp_path / "t.jsonl")
    assert list(table) == ["a.jpg", "b.jpg"] and table["a.jpg"]["text"].startswith("one\u2028two\u0085three")
    assert table["a.jpg"]["tags"] == "x | y" and table["a.jpg"]["new"] == "true"


def test_queries_with_line_separators_in_texts(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"text": "red\u2028dress"}\r\n{"text": "blue"}\n', encoding="utf-8")
    queries = read_queries(tmp_path / "q.jsonl", Query(None, None, "-", 5))
    assert [query.text for query in queries] == ["red\u2028dress", "blue"]


def test_json_lines_in_utf_16(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"id": "a.jpg", "name": "Größe"}\n', encoding="utf-16")
    assert read_rows(tmp_path / "t.jsonl") == {"a.jpg": {"name": "Größe"}}


def test_nested_objects_of_json_stay_json(tmp_path):
    row = {"id": "a.jpg", "size": {"eu": 38, "uk": [10, None]}, "variants": [{"sku": "01", "price": 5}]}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    assert read_rows(tmp_path / "t.jsonl")["a.jpg"] == {
        "size": '{"eu": 38, "uk": [10, null]}',
        "variants": '{"sku": "01", "price": 5}',
    }
