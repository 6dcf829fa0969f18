"Saved rankings, prediction files, and query files."

from pathlib import Path

from rich.console import Console

from fashionern.data.images import ImageFinder
from fashionern.data.triplets import TripletDataset
from fashionern.evaluation.comparison import compare, comparison_tables
from fashionern.evaluation.evaluate import RankedQuery, Result
from fashionern.evaluation.predictions import write_predictions
from fashionern.evaluation.rankings import read_rankings
from fashionern.files import write_json
from fashionern.records import Triplet
from fashionern.search.query import Query, read_queries

from . import draw
from .harness import BrokenContract, target
from .hostile import TEXTS, lines_of, write_files


def _ranked(model: str, ranks: tuple) -> list[dict]:
    return [
        {"protocol": "table", "model": model, "query": f"q{i}", "category": "all", "reference": "r", "captions": ["is red"], "gallery": 9, "targets": ["a"], "rank": rank, "top": [["a", 0.5], ["b", 0.25]]}
        for i, rank in enumerate(ranks)
    ]


LINES = lines_of(_ranked("one", (1, 2, -1)), _ranked("two", (2, 1, 3)), _ranked("two", (None, 1)))


@target("rankings", draw.tuples(LINES, LINES))
def _(given: tuple, folder: Path) -> None:
    write_files(dict(zip(("a.jsonl", "b.jsonl"), given)), folder)
    first, second = (read_rankings(folder / name) for name in ("a.jsonl", "b.jsonl"))
    found = compare(first, second, k=1, min_queries=1)
    with open(folder / "out.txt", "w", encoding="utf-8") as out:
        for table in comparison_tables(found):
            Console(file=out, width=100).print(table)
    shown = (folder / "out.txt").read_text(encoding="utf-8")
    if "\x1b" in shown:
        raise BrokenContract("a control character reaches the terminal")
    write_json(folder / "out.json", found.as_dict())


QUERIES = [
    {"image": "a.png", "text": "is red", "k": 3, "where": "price < 20", "keep_reference": True},
    {"name": "b.png", "text": "is blue"},
    {"text": "a dress"},
]


@target("queries", lines_of(QUERIES))
def _(data: bytes, folder: Path) -> None:
    (folder / "q.jsonl").write_bytes(data)
    for query in read_queries(folder / "q.jsonl", Query(text="-", k=5)):
        if not (query.image is not None or query.name is not None or query.text.strip()):
            raise BrokenContract("an empty query")


GROUP = tuple(f"dev-{i}" for i in range(6))
NAMES = draw.one_of(draw.sampled_from(GROUP), TEXTS)
TOPS = draw.one_of(draw.lists(NAMES, 6, 3), draw.just(list(GROUP[1:])), draw.just(list(GROUP[5:0:-1])))


@target("predictions", draw.tuples(draw.lists(draw.tuples(NAMES, TOPS, TOPS), 3, 1), draw.sampled_from(("cirr", "fashioniq"))))
def _(given: tuple, folder: Path) -> None:
    asked, name = given
    triplets = [Triplet("dev-0", (), ("x",), "all", str(id), GROUP) for id, _, _ in asked]
    data = TripletDataset(name, "test1", triplets, {"all": list(GROUP)}, ImageFinder(folder))
    ranked = [RankedQuery(str(id), "all", "dev-0", ("x",), (), None, top=tuple((n, 0.5) for n in top), subset=tuple(group)) for id, top, group in asked]
    result = Result({"cirr": "cirr", "fashioniq": "fashioniq-original"}[name], "m", {}, {}, {}, {}, queries=ranked)
    write_predictions(folder / "out", data, result)
