"Product tables, and filters on their columns."

import io
import sqlite3
from pathlib import Path

import pandas as pd
from PIL import Image

from fashionern.data.catalogue.phrases import product_descriptions
from fashionern.data.catalogue.table import read_table, triplets_from_table
from fashionern.data.datasets.folder import load_folder
from fashionern.data.tables import match_rows
from fashionern.errors import ErnError, unknown_name
from fashionern.files import write_json
from fashionern.search.inventory import column_warnings, read_rows
from fashionern.search.stores.filters import columns_of, parse_filter, to_milvus, to_sql

from . import draw
from .harness import BrokenContract, target
from .hostile import STEPS, STRINGS, TEXTS, damaged, documents, near

CSV = b"id,name,colour,price\n1,A dress,red,10\n2.png,\"B, long\",blue,20.5\n3,C,red,\n4,D,green,7\n"
TABLES = draw.one_of(near(CSV), near(CSV.replace(b"\n", b"\r\n")), draw.builds(lambda rows: CSV + "\n".join(",".join(r) for r in rows).encode("utf-8", "surrogatepass"), draw.lists(draw.lists(draw.sampled_from(STRINGS), 4), 4)))


@target("table-csv", TABLES)
def _(data: bytes, folder: Path) -> None:
    (folder / "t.csv").write_bytes(data)
    _read(folder / "t.csv", folder)


def _read(path: Path, folder: Path) -> None:
    frame, _ = read_table(path, ["id", "colour"], "name")
    frame.to_csv(folder / "again.csv")
    rows = read_rows(path, "id")
    match_rows(["women/1.png", "2.jpg"], rows)
    column_warnings(rows)
    write_json(folder / "rows.json", rows)


def _parquet(columns: dict) -> bytes:
    out = io.BytesIO()
    pd.DataFrame(columns).to_parquet(out)
    return out.getvalue()


PARQUET = (
    _parquet({"id": ["1", "2"], "name": ["a", None], "colour": ["red", "blue"], "price": [1.5, float("nan")]}),
    _parquet({"id": [1, 2], "name": ["a", "b"], "colour": pd.Categorical(["red", "blue"]), "price": [[1], [2, 3]], "when": pd.to_datetime(["2020-01-01", None])}),
    _parquet({"id": [b"1", b"\xff"], "name": ["a", "b"], "colour": [{"a": 1}, {"a": None}], "0": [True, None]}),
)


@target("table-parquet", near(*PARQUET), 0.5)
def _(data: bytes, folder: Path) -> None:
    (folder / "t.parquet").write_bytes(data)
    _read(folder / "t.parquet", folder)


@target("table-json", documents({"1.png": {"colour": "red", "price": 2}, "women/2": {"colour": "blue"}}))
def _(data: bytes, folder: Path) -> None:
    (folder / "t.json").write_bytes(data)
    rows = read_rows(folder / "t.json", "id")
    match_rows(["women/2.png"], rows)
    write_json(folder / "rows.json", rows)


REPORT = {"options": {"table": "x"}, "splits": {"train": {}, "val": {}}}


@target("table-triplets", draw.tuples(TABLES, draw.one_of(*[draw.just(None)] * 2, documents(REPORT))), 0.15)
def _(given: tuple, folder: Path) -> None:
    data, report = given
    (folder / "t.csv").write_bytes(data)
    for i, colour in enumerate(("red", "blue", "green", "white"), 1):
        Image.effect_noise((8, 8), 50 * i).convert("RGB").save(folder / f"{i}.png")
    if report is not None:
        (folder / "report.json").write_bytes(report)
    triplets_from_table(folder / "t.csv", "id", ("colour",), folder, "name", val=0.5, progress=False)
    load_folder(folder, "val")


@target("product-sentences", draw.builds(dict, draw.lists(draw.tuples(draw.sampled_from(("colour", "sleeveLength", "gender", "articleType", "{new}", "(", "neck")), draw.sampled_from([s for s in STRINGS if len(s) < 1000])), 4)))
def _(attributes: dict, folder: Path) -> None:
    product_descriptions(attributes, "a name")


# --- conditions --------------------------------------------------------------------------------------------------------

WORDS = ("colour", "price", '"a ""b"', "'red'", "'O''Neill'", "20", "-1.5e3", "1e999", "9" * 400, "and", "or", "not", "in", "like", "is", "null", "(", ")", ",", "=", "!=", "<", ">=", "''", "'%'", "'[*'", ";", "--", "/*", "\0", "\ud800", "'", '"', "NOT(", "x" * 5_000, "(" * 300, "٣")  # fmt: skip
VALID = ("colour = 'red' and price < 20", "not (colour in ('red', 'blue') or price is not null)", "colour like '%e_' and not price >= -1", '"a ""b" is null')
CONDITIONS = draw.one_of(
    draw.builds(" ".join, draw.lists(draw.sampled_from(WORDS), 12)),
    draw.builds(lambda s, steps: damaged(s.encode(), steps).decode("utf-8", "surrogateescape"), draw.sampled_from(VALID), STEPS),
    draw.builds(lambda v, how: f"colour {how} '{v}'", TEXTS, draw.sampled_from(("=", "like", "<", "in"))),
)
_DB: list = []


def _database() -> None:
    db = sqlite3.connect(":memory:")
    db.execute("create table photos (row integer primary key, name text, columns text)")
    db.executemany("insert into photos (name, columns) values (?, ?)", [("a", '["red", 10]'), ("b", '["blue", null]'), ("c", "[null, 20.5]")])
    db.execute("create table secret (word text)")
    db.execute("insert into secret values ('hidden')")
    db.commit()
    _DB[:] = [db]


def _column(name: str) -> str:
    columns = ["colour", "price", 'a "b']
    if name not in columns:
        raise unknown_name("column", name, columns)
    return f"json_extract(columns, '$[{columns.index(name)}]')"


@target("filter", CONDITIONS, ready=_database)
def _(text: str, folder: Path) -> None:
    tree = parse_filter(text)
    columns_of(tree)
    milvus = None
    try:
        milvus = to_milvus(tree)
    except ErnError:
        pass  # Milvus cannot express it
    if milvus is not None:
        milvus.encode()
    sql, values = to_sql(tree, _column)
    found = _DB[0].execute(f"select name from photos where {sql}", values).fetchall()
    negated = _DB[0].execute(f"select name from photos where not ({sql})", values).fetchall()
    if set(found) & set(negated) or not set(found) <= {("a",), ("b",), ("c",)}:
        raise BrokenContract("the SQL means something else than the filter", (found, negated))
    if _DB[0].total_changes != 4:
        raise BrokenContract("the filter changed the table")
