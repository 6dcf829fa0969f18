"Folders of indexes and feature stores."

import json
import sqlite3
import tempfile
from pathlib import Path

import faiss
import numpy as np
from rich.console import Console

from fashionern.encoders.feature_store import FeatureStore, create_store, invalid_rows
from fashionern.models.hub import MODEL_TYPE  # noqa: F401  heavy imports before the fork
from fashionern.search.inventory import describe, info_table, open_store
from fashionern.search.query import Hit, Query, hits_table
from fashionern.search.stores.base import Photo
from fashionern.search.stores.filters import parse_filter
from fashionern.search.stores.folder import FolderStore

from . import draw
from .harness import BrokenContract, target
from .hostile import CHANGES, SCALARS, STEPS, changed, damaged, documents, dumps, write_files

ROWS, DIM = 40, 8
FILES: dict[str, bytes] = {}


def _vectors() -> np.ndarray:
    made = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def _build() -> None:
    "The files of a small index, and of its approximate versions."
    with tempfile.TemporaryDirectory() as d:
        folder = Path(d) / "index"
        store = FolderStore.create(folder, {"format": 1, "model": "runs/demo", "model_name": "sum", "identity": "0" * 16, "dim": DIM, "kind": "hnsw"})
        photos = [Photo(f"women/{i}.png", f"/photos/women/{i}.png", (i, i, i), {"colour": ("red", "blue")[i % 2], "price": i / 2}) for i in range(ROWS)]
        store.put(photos, _vectors())
        for kind, index in {"flat": faiss.IndexFlatIP(DIM), "hnsw": faiss.IndexIDMap2(faiss.IndexHNSWSQ(DIM, faiss.ScalarQuantizer.QT_8bit, 4, faiss.METRIC_INNER_PRODUCT)), "ivf": faiss.index_factory(DIM, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)}.items():
            index.train(_vectors())
            index.add_with_ids(_vectors(), np.arange(ROWS)) if kind != "flat" else index.add(_vectors())
            faiss.write_index(index, str(folder / f"approximate-{kind}.faiss"))
        with store.records.writing():
            store.records.set_fact("approximate", {"file": "approximate-hnsw.faiss", "covered": ROWS, "photos": ROWS, "breadth": 16, "recall@10": 1.0})
        store.records.query("pragma wal_checkpoint(truncate)")
        store.close()
        FILES.update({p.name: p.read_bytes() for p in folder.iterdir() if not p.name.endswith(("-wal", "-shm"))})


def _asked(folder: Path) -> None:
    "Use an index as `ern_index info`, `ern_search` and the page do, without the model."
    store = open_store(folder)
    try:
        told = describe(store)
        json.dumps(told, ensure_ascii=False, indent=2).encode()
        with open(folder / "out.txt", "w", encoding="utf-8") as out:
            say = Console(file=out, width=100).print
            say(info_table(told))
            names = sorted(store.marks())
            for where in (None, parse_filter("colour = 'red' and not price > 5")):
                found = store.find(_vectors()[:2], 5, where)
                for photos, pairs in ((store.get([n for n, _ in pairs]), pairs) for pairs in found):
                    say(hits_table(Query(text="x"), [Hit(p.name, s, p.path, p.columns) for p, (_, s) in zip(photos, pairs)]))
            store.get(names[:3])
        if "\x1b" in (folder / "out.txt").read_text(encoding="utf-8"):
            raise BrokenContract("a control character reaches the terminal")
    finally:
        store.close()


@target("index-bytes", draw.tuples(draw.sampled_from(("records.sqlite", "vectors.f32")), STEPS), 0.3, ready=_build)
def _(given: tuple, folder: Path) -> None:
    name, steps = given
    write_files(FILES | {name: damaged(FILES[name], steps)}, folder)
    _asked(folder)


@target("index-faiss", draw.tuples(draw.sampled_from(("flat", "hnsw", "ivf")), STEPS), 0.3, ready=_build)
def _(given: tuple, folder: Path) -> None:
    kind, steps = given
    write_files(FILES | {"approximate-hnsw.faiss": damaged(FILES[f"approximate-{kind}.faiss"], steps)}, folder)
    _asked(folder)


FACTS = {
    "about": {"format": 1, "model": "runs/demo", "model_name": "sum", "identity": "0" * 16, "dim": DIM, "kind": "hnsw"},
    "next": ROWS,
    "columns": ["colour", "price"],
    "approximate": {"file": "approximate-hnsw.faiss", "covered": ROWS, "photos": ROWS, "breadth": 16, "recall@10": 1.0},
    "examples": [{"text": "is red", "name": "0.jpg", "share": 0.75, "chance": 0.1}],
}


def _cell(value):
    "A value that SQLite can hold."
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return value if isinstance(value, (float, type(None))) or isinstance(value, int) and abs(value) < 1 << 63 else None


CELLS = draw.one_of(draw.builds(_cell, SCALARS), draw.binary(8))


@target("index-records", draw.tuples(CHANGES, draw.lists(draw.tuples(draw.integers(0, ROWS), draw.sampled_from(("row", "name", "path", "size", "time", "digest", "columns")), CELLS), 3)), 0.3, ready=_build)
def _(given: tuple, folder: Path) -> None:
    changes, cells = given
    write_files(FILES, folder)
    facts = changed(FACTS, changes)
    db = sqlite3.connect(folder / "records.sqlite")
    db.execute("delete from meta")
    for pair in facts if isinstance(facts, list) else ():
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str):
            db.execute("insert or replace into meta values (?, ?)", [pair[0].encode("utf-8", "replace").decode(), dumps(pair[1]).encode("utf-8", "replace").decode()])
    for row, column, value in cells:
        try:
            db.execute(f"update photos set {column} = ? where row = ?", [value, row])
        except sqlite3.Error:
            pass
    db.commit()
    db.close()
    _asked(folder)


# --- stored features ---------------------------------------------------------------------------------------------------

STORED: dict[str, bytes] = {}


def _build_features() -> None:
    import torch

    from fashionern.records import ImageFeatures

    with tempfile.TemporaryDirectory() as d:
        store = create_store(Path(d) / "s", "key", ["a", "b"], 4)
        store.put(torch.arange(2), ImageFeatures(torch.ones(2, 4), torch.ones(2, 13, 4)))
        store.flush()
        STORED.update({p.name: p.read_bytes() for p in (Path(d) / "s").iterdir()})


META = {"key": "key", "dim": 4, "dtype": "float32", "names": ["a", "b"]}


@target("feature-store", draw.tuples(draw.one_of(draw.just(None), documents(META)), draw.sampled_from(("whole.npy", "local.npy", "sums.npy", "photos.npy")), STEPS), ready=_build_features)
def _(given: tuple, folder: Path) -> None:
    meta, name, steps = given
    files = STORED | {name: damaged(STORED[name], steps)} | ({} if meta is None else {"store.json": meta})
    write_files(files, folder)
    store = FeatureStore(folder)
    rows = np.arange(len(store))
    invalid_rows(store, rows, lambda name: folder / "none.png")
    store[store.names[:1]]
