"Every store returns what NumPy returns, filters as plain Python does, and survives a kill intact."

import importlib.util
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
from error_sentence import sentence
from forked import forked
from test_filters import NAMES, as_text, deepest_filters, holds, random_columns, random_filter

from fashionern.errors import ErnError
from fashionern.search.stores.base import Photo, StoreUnavailableError
from fashionern.search.stores.filters import parse_filter, with_lists
from fashionern.search.stores.folder import FolderStore

MILVUS = all(map(importlib.util.find_spec, ("pymilvus", "milvus_lite")))
needs_milvus = pytest.mark.skipif(not MILVUS, reason="Milvus is not installed: pip install 'fashionern[milvus]'")
DIM, COUNT = 16, 300
ABOUT = {
    "format": 1,
    "model": "runs/a model",
    "model_name": "fashionern",
    "identity": "0123456789abcdef",
    "dim": DIM,
    "kind": "exact",
}
ODD = [
    'it\'s "so".jpg',
    "women/a b.jpg",
    "日本/ü\U0001f600.png",
    "two\nlines.jpg",
    "x" * 300 + ".jpg",
    "' or 1=1 --",
    "back\\slash%_[*]?.jpg",
    " ",
    "{a}",
    "e\u0301.jpg",
    "\u00e9.jpg",
    "A.jpg",
    "a.jpg",
]


SERVER = os.environ.get("FASHIONERN_MILVUS", "")  # such as http://127.0.0.1:19530; make test-milvus sets it
needs_server = pytest.mark.skipif(not SERVER, reason="no Milvus server: make test-milvus")


LITE = pytest.param("milvus", marks=needs_milvus)


@pytest.fixture(params=["folder", LITE, pytest.param("server", marks=needs_server)])
def maker(request, tmp_path):
    "A store class and a place for one."
    if request.param == "folder":
        return FolderStore, tmp_path / "index"
    from fashionern.search.stores.milvus import MilvusStore

    return MilvusStore, new_collection() if request.param == "server" else tmp_path / "index.db"


def new_collection() -> str:
    "The address of an index that does not exist yet."
    return f"{SERVER}#test_{uuid.uuid4().hex}"


@pytest.fixture
def store(maker):
    "An empty store, closed after the test."
    kind, place = maker
    made = kind.create(place, ABOUT)
    yield made
    made.close()


def random_photos(count: int, seed: int = 0) -> tuple[list[Photo], np.ndarray]:
    "Photos with random columns and unit vectors; the first ones have odd names."
    rng = random.Random(seed)
    names = [*ODD, *(f"men/{i}.jpg" for i in range(count))][:count]
    photos = []
    for name in names:
        mark = (rng.randrange(2**40), rng.randrange(2**62), rng.randrange(-(2**63), 2**63))
        photos.append(Photo(name, f"/shop/{name}", mark, random_columns(rng)))
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return photos, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def nearest(photos: list[Photo], vectors: np.ndarray, query: np.ndarray, k: int) -> list[tuple[str, float]]:
    "The k photos with the largest inner products, by NumPy."
    scores = vectors @ query
    return [(photos[i].name, scores[i]) for i in np.argsort(-scores)[:k]]


def assert_same(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    "The same names in the same order, with the same scores."
    assert [n for n, _ in found] == [n for n, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-5)


def test_put_and_find(store):
    photos, vectors = random_photos(COUNT)
    store.put(photos[:100], vectors[:100])
    store.put(photos[100:], vectors[100:])
    queries = random_photos(40, seed=1)[1]
    for _ in range(2):  # before and after the refresh
        assert len(store) == COUNT and store.marks() == {p.name: p.mark for p in photos}
        assert store.get([p.name for p in photos[::-1]]) == photos[::-1] and store.get([]) == []
        for query, found in zip(queries, store.find(queries, 12), strict=True):
            assert_same(found, nearest(photos, vectors, query, 12))
        store.refresh()


def test_replacing_and_removing(store):
    photos, vectors = random_photos(COUNT)
    store.put(photos, vectors)
    changed = [Photo(p.name, "/new", (1, 2, 3), {"colour": "red"}) for p in photos[:50]]
    moved = random_photos(50, seed=2)[1]
    store.put(changed, moved)
    assert (
        store.remove([p.name for p in photos[250:]] + ["none", photos[299].name]) == 50
        and store.remove(["none"]) == 0
        and store.remove([]) == 0
    )
    now = changed + photos[50:250]
    held = np.concatenate([moved, vectors[50:250]])
    assert (
        len(store) == 250
        and store.marks() == {p.name: p.mark for p in now}
        and store.get([changed[4].name]) == [changed[4]]
    )
    for query, found in zip(moved, store.find(moved, 5), strict=True):
        assert_same(found, nearest(now, held, query, 5))
    assert repr(photos[260].name) in sentence(store.get, ["men/1.jpg", photos[260].name])
    store.put(photos[250:], vectors[250:])
    assert len(store) == COUNT and store.find(vectors[299:], 1)[0][0][0] == photos[299].name


def test_set_columns_keeps_the_vectors(store):
    photos, vectors = random_photos(COUNT)
    store.put(photos, vectors)
    labelled = [replace(p, columns={"price_eur": float(i)}) for i, p in enumerate(photos)]
    store.set_columns(labelled[:200])
    store.set_columns([replace(labelled[0], name="none")])  # an unknown photo: nothing is added
    store.refresh()
    assert store.get([p.name for p in photos]) == labelled[:200] + photos[200:] and len(store) == COUNT
    for query, found in zip(vectors[:20], store.find(vectors[:20], 5), strict=True):
        assert_same(found, nearest(photos, vectors, query, 5))
    assert {n for n, _ in store.find(vectors[:1], COUNT, parse_filter("price_eur < 3"))[0]} == {
        p.name for p in photos[:3]
    }
    store.set_columns(labelled)
    assert "price_eur" in sentence(
        store.find, vectors[:1], 3, parse_filter("gender is null")
    )  # no photo has this column any more


def test_a_store_is_the_same_after_reopening(maker):
    kind, place = maker
    photos, vectors = random_photos(COUNT)
    assert not kind.exists(place)
    first = kind.create(place, ABOUT)
    first.put(photos, vectors)
    first.remove([photos[0].name])
    assert first.examples() is None
    first.set_examples([{"text": "O\'Neill’s ✓", "name": photos[1].name, "share": 0.5, "chance": 0}])
    assert first.roles() == {}
    first.set_roles({"product": "sku", "lists": ["Größe"], "currencies": {"price": "€"}})
    before = first.find(vectors[:9], 7), first.marks(), first.values(), first.about
    first.close()
    assert kind.exists(place)
    second = kind.open(place)
    assert (second.marks(), second.values(), second.about) == before[1:] and second.about == ABOUT
    assert second.examples() == [{"text": "O'Neill’s ✓", "name": photos[1].name, "share": 0.5, "chance": 0}]
    assert second.roles() == {"product": "sku", "lists": ["Größe"], "currencies": {"price": "€"}}
    for found, expected in zip(second.find(vectors[:9], 7), before[0], strict=True):
        assert_same(found, expected)
    second.put(photos[:1], vectors[:1])
    assert len(second) == COUNT
    second.close()


def test_photos_are_selected_and_their_vectors_read(store):
    photos, vectors = random_photos(COUNT)
    rows = [{"size": "S | M"}, {"size": "M"}, {"size": "XS | S"}, {"size": "S"}, {}]
    labelled = [replace(p, columns=rows[i % 5]) for i, p in enumerate(photos)]
    store.put(labelled, vectors)
    assert store.select() == sorted(p.name for p in photos)
    for text, of_rows in (("size = 'S'", (0, 2, 3)), ("size != 'S'", (1,)), ("size in ('M', 'XS')", (0, 1, 2))):
        try:
            found = store.select(with_lists(parse_filter(text), ["size"]))
        except ErnError as e:  # a server of Milvus 2.3 cannot look inside a text
            assert "supports only patterns" in str(e)
            continue
        assert found == sorted(p.name for i, p in enumerate(photos) if i % 5 in of_rows), text
    names = [photos[i].name for i in (7, 3, 7)]
    assert np.array_equal(store.vectors_of(names), vectors[[7, 3, 7]])
    assert "'nowhere'" in sentence(store.vectors_of, ["nowhere"])


def test_filters_mean_the_same_as_in_plain_python(store):
    photos, vectors = random_photos(COUNT)
    store.put(photos, vectors)
    store.refresh()
    rng = random.Random(3)
    sizes = []
    refused = 0
    is_server = "://" in str(getattr(store, "where", ""))  # one that waits a moment before each request
    turns = 60 if is_server else 150
    for i in range(turns):
        rule = parse_filter(as_text(random_filter(rng), rng))
        try:
            (found,) = store.find(vectors[i : i + 1], COUNT, rule)
        except ErnError as e:
            assert "pattern" in str(e)  # the one thing that Milvus does not support
            refused += 1
            continue
        kept = [j for j, p in enumerate(photos) if holds(rule, p.columns) is True]
        assert_same(found, nearest([photos[j] for j in kept], vectors[kept], vectors[i], COUNT))
        sizes.append(len(kept))
    assert (
        len(sizes) > (25 if is_server else 100)
        and len(set(sizes)) > (15 if is_server else 40)
        and refused == (0 if isinstance(store, FolderStore) else turns - len(sizes))
    )


def test_the_longest_filters_run(store):
    photos, vectors = random_photos(50)
    store.put(photos, vectors)
    for text in (
        " or ".join(["price=1"] * 360),
        f"price in ({','.join(['1'] * 1990)})",
        f"price not in ({','.join(['1'] * 1990)})",
        *deepest_filters(),
    ):
        rule = parse_filter(text)
        assert {n for n, _ in store.find(vectors[:1], 50, rule)[0]} == {
            p.name for p in photos if holds(rule, p.columns)
        }, text[:60]


def test_values_of_columns(store):
    photos = []
    for i in range(60):
        columns = {"season": ["Fall", "Summer", "Fall"][i % 3], "number": i}
        if i < 9:
            columns["size"] = [38, "M"][i % 2]
        photos.append(Photo(str(i), "/p", (0, 0, 0), columns))
    store.put(photos, random_photos(60)[1])
    assert (
        store.values(50) == {"season": ["Fall", "Summer"], "size": [38, "M"]} and len(store.values(60)["number"]) == 60
    )
    for name in NAMES[:2]:
        assert name in sentence(
            store.find, random_photos(1)[1], 3, parse_filter(f"{name} is null")
        )  # no photo has this column


def test_an_empty_store(store):
    queries = random_photos(3)[1]
    assert (
        len(store) == 0
        and store.marks() == {}
        and store.values() == {}
        and store.find(queries, 5) == [[], [], []]
        and store.find(queries[:0], 5) == []
    )
    store.put([], np.zeros((0, DIM), dtype=np.float32))
    assert len(store) == 0 and store.remove(["none"]) == 0


def test_k_larger_than_the_store(store):
    photos, vectors = random_photos(5)
    store.put(photos, vectors)
    assert_same(store.find(vectors[:1], 20_000)[0], nearest(photos, vectors, vectors[0], 5))


def test_wrong_vectors_and_names_are_refused_and_change_nothing(store):
    photos, vectors = random_photos(4)
    store.put(photos[:1], vectors[:1])
    for given in (vectors[:2, :8], vectors[:1], np.full((2, DIM), np.nan, dtype=np.float32)):
        assert sentence(store.put, photos[2:], given)
    assert "same name" in sentence(store.put, [photos[2], photos[2]], vectors[:2])
    assert len(store) == 1 and store.marks() == {photos[0].name: photos[0].mark}


def test_places_without_a_store_or_taken(maker):
    kind, place = maker
    assert str(place) in sentence(kind.open, place) and not kind.exists(place)
    assert "exakt" in sentence(kind.create, place, {**ABOUT, "kind": "exakt"})
    kind.create(place, ABOUT).close()
    assert str(place) in sentence(kind.create, place, ABOUT)
    if "://" in str(place):
        return
    taken = place.with_name("taken.db")
    taken.write_text("a file")
    assert str(taken) in sentence(kind.create, taken, ABOUT)


def clustered(count: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    "(count, dim) unit vectors in clusters."
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((40, dim))
    vectors = centres[rng.integers(40, size=count)] + 0.5 * rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def recall_at_10(store, photos: list[Photo], vectors: np.ndarray, queries: np.ndarray, where=None) -> float:
    "The share of the ten photos nearest by NumPy that the store finds."
    shares = []
    for query, found in zip(queries, store.find(queries, 10, where), strict=True):
        names = {n for n, _ in nearest(photos, vectors, query, 10)}
        shares.append(len(names & set(dict(found))) / len(names))
    return float(np.mean(shares))


@pytest.mark.parametrize(
    "kind, count, kept_share",
    [
        *(("hnsw", 4_000, share) for share in (0.8, 0.6, 0.3, 0.1, 0.001)),  # 0.8: measured again; 0.6: built again
        *(("ivf-pq", 11_000, share) for share in (0.3, 0.1, 0.001)),
    ],
)
def test_after_removals_the_search_is_complete_and_its_recall_is_measured_again(tmp_path, kind, count, kept_share):
    vectors = clustered(count)
    photos = [Photo(f"{i}.jpg", "/p") for i in range(count)]
    store = FolderStore.create(tmp_path / "index", {**ABOUT, "kind": kind})
    store.put(photos, vectors)
    store.refresh()
    keep = np.random.default_rng(1).permutation(count)[: int(count * kept_share)]
    store.remove([photos[i].name for i in sorted(set(range(count)) - set(keep))])
    left = [photos[i] for i in keep]
    for _ in range(2):  # before and after the refresh
        for k in (12, 50, 200):
            assert all(len(found) == min(k, len(left)) for found in store.find(vectors[:30], k))
        assert recall_at_10(store, left, vectors[keep], vectors[:100]) > 0.95
        facts = store.refresh()
        assert facts.get("photos", len(left)) == len(left)  # of the measurement
    files = list(store.folder.glob("*.faiss"))
    assert len(files) == bool(facts)
    if kept_share < 0.7 and files:
        assert faiss.read_index(str(files[0])).ntotal == len(left)  # built again without the removed photos


def test_replaced_photos_count_as_removed_ones(tmp_path):
    vectors = clustered(2_000)
    photos = [Photo(f"{i}.jpg", "/p") for i in range(2_000)]
    store = FolderStore.create(tmp_path / "index", {**ABOUT, "kind": "hnsw"})
    store.put(photos, vectors)
    store.refresh()
    moved = clustered(2_000, seed=9)[:1_900]
    store.put(photos[:1_900], moved)
    now = np.concatenate([moved, vectors[1_900:]])
    assert recall_at_10(store, photos, now, clustered(100, seed=2)) > 0.95
    assert all(len(found) == 300 for found in store.find(vectors[:9], 300))


@pytest.mark.parametrize("kind", ["hnsw", "ivf-pq"])
@pytest.mark.parametrize("filter_text", ["shelf = 'random'", "shelf = 'near' or shelf = 'random'", "part = 0"])
def test_filters_that_leave_many_photos_keep_the_recall(tmp_path, monkeypatch, kind, filter_text):
    from fashionern.search.stores import folder

    monkeypatch.setattr(folder, "_MAX_SCORED_DIRECTLY", 50)
    vectors = clustered(12_000)
    axis = vectors[:, 0].argsort().argsort()  # a filter may have to do with the vectors
    photos = []
    for i in range(12_000):
        shelf = "near" if axis[i] < 600 else "random" if i % 20 == 0 else "other"
        photos.append(Photo(f"{i}.jpg", "/p", columns={"shelf": shelf, "part": int(axis[i] >= 900)}))
    store = FolderStore.create(tmp_path / "index", {**ABOUT, "kind": kind})
    store.put(photos, vectors)
    store.refresh()
    where = parse_filter(filter_text)
    kept = [i for i, p in enumerate(photos) if holds(where, p.columns) is True]
    queries = vectors[axis > 11_000][:60]  # far from the photos with part 0
    found = store.find(queries, 20, where)
    assert all(len(hits) == 20 for hits in found)
    assert recall_at_10(store, [photos[i] for i in kept], vectors[kept], queries, where) > 0.95


@pytest.fixture
def damaged(tmp_path):
    "A function: change the bytes of the vectors of a folder with 1,000 photos, and return the folder and the photos."

    def damage(change) -> tuple[Path, list[Photo], np.ndarray]:
        photos, vectors = random_photos(1_000)
        store = FolderStore.create(tmp_path / "index", ABOUT)
        for part in range(0, 1_000, 100):
            store.put(photos[part : part + 100], vectors[part : part + 100])
        store.close()
        path = tmp_path / "index" / "vectors.f32"
        rows = np.fromfile(path, "<f4").reshape(-1, DIM)
        change(rows)
        path.write_bytes(rows.tobytes())
        return tmp_path / "index", photos, vectors

    return damage


def zeros(rows: np.ndarray) -> None:
    rows[150:160] = 0


def shift(rows: np.ndarray) -> None:
    rows[100:199] = rows[101:200].copy()


def not_a_number(rows: np.ndarray) -> None:
    rows[111] = np.nan


@pytest.mark.parametrize("change", [zeros, shift, not_a_number])
def test_damaged_vectors_are_refused_until_they_are_encoded_again(damaged, change):
    folder, photos, vectors = damaged(change)
    store = FolderStore.open(folder)
    assert "ern_index update" in sentence(store.find, vectors[:1], 3)
    assert store.damaged() == sorted(p.name for p in photos[100:200])  # one put has one checksum
    store.put(photos[100:200], vectors[100:200])
    assert store.damaged() == []
    assert recall_at_10(store, photos, vectors, vectors[:50]) == 1


def test_a_file_of_vectors_is_written_again_without_removed_photos(tmp_path):
    store = FolderStore.create(tmp_path / "index", {**ABOUT, "kind": "hnsw"})
    other = FolderStore.open(tmp_path / "index")
    photos, vectors = random_photos(1_500)
    for _ in range(6):
        vectors = np.roll(vectors, 1, axis=0)
        store.put(photos, vectors)
        store.remove([p.name for p in photos[1_400:]])
        store.refresh()
        for reader in (store, other):
            assert recall_at_10(reader, photos[:1_400], vectors[:1_400], vectors[:30]) > 0.95
    store.refresh()
    (file,) = (tmp_path / "index").glob("vectors*.f32")
    assert file.stat().st_size <= 4 * DIM * 3_000 and len(list((tmp_path / "index").glob("*.faiss"))) == 1
    reopened = FolderStore.open(tmp_path / "index")
    assert reopened.damaged() == [] and reopened.get([photos[7].name]) == [photos[7]]
    assert reopened.find(vectors[:1], 1)[0][0][0] == photos[0].name


def test_a_killed_or_failed_compaction_changes_nothing(tmp_path, monkeypatch):
    store = FolderStore.create(tmp_path / "index", ABOUT)
    photos, vectors = random_photos(1_200)
    store.put(photos, vectors)
    store.remove([p.name for p in photos[500:]])
    monkeypatch.setattr(type(store.records), "set_checksum", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.refresh()
    assert [p.name for p in (tmp_path / "index").glob("vectors*")] == ["vectors.f32"]
    assert recall_at_10(store, photos[:500], vectors[:500], vectors[:20]) == 1


def test_an_index_of_an_earlier_version_gets_checksums(tmp_path):
    store = FolderStore.create(tmp_path / "index", ABOUT)
    photos, vectors = random_photos(100)
    store.put(photos, vectors)
    with store.records.writing():
        store.records.db.execute("delete from meta where key glob 'sum *'")
    store.refresh()
    store.close()
    path = tmp_path / "index" / "vectors.f32"
    path.write_bytes(bytes(8) + path.read_bytes()[8:])
    assert len(FolderStore.open(tmp_path / "index").damaged()) == 100


def test_a_deleted_and_rebuilt_folder_is_noticed(tmp_path):
    store = FolderStore.create(tmp_path / "index", ABOUT)
    photos, vectors = random_photos(5)
    store.put(photos, vectors)
    assert store.find(vectors[:1], 1)[0]
    actions = {
        "find": lambda: store.find(vectors[:1], 1),
        "put": lambda: store.put(photos, vectors),
        "remove": lambda: store.remove([photos[0].name]),
        "get": lambda: store.get([photos[0].name]),
        "vectors_of": lambda: store.vectors_of([photos[0].name]),
        "len": lambda: len(store),
        "marks": store.marks,
        "select": store.select,
        "values": store.values,
        "examples": store.examples,
        "refresh": store.refresh,
    }
    shutil.rmtree(tmp_path / "index")
    for rebuilt in (False, True):
        if rebuilt:
            new = FolderStore.create(tmp_path / "index", ABOUT)
            new.put(photos[:2], vectors[:2])
        for name, act in actions.items():
            with pytest.raises(StoreUnavailableError, match="deleted or rebuilt"):
                pytest.fail(f"{name} returns {act()!r}")
    assert len(new) == 2 and new.damaged() == []


READ_ONLY = """
import os, sys
import numpy as np
from fashionern.errors import ErnError
from fashionern.search.inventory import describe
from fashionern.search.stores.folder import FolderStore
folder, dim = sys.argv[1], int(sys.argv[2])
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
store = FolderStore.open(folder)
print(len(store.find(np.eye(1, dim, dtype=np.float32), 3)[0]), len(store.marks()))
try:
    store.remove(["men/20.jpg"])
except ErnError as e:
    print(e)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="permissions of Linux")
def test_an_index_that_cannot_be_written_is_read():
    with tempfile.TemporaryDirectory() as tmp:
        os.chmod(tmp, 0o755)
        folder = Path(tmp) / "index"
        store = FolderStore.create(folder, ABOUT)
        store.put(*random_photos(50))
        store.close()
        for path in (*folder.iterdir(), folder):
            path.chmod(0o555 if path.is_dir() else 0o444)
        result = forked(Path("/"), READ_ONLY, folder, str(DIM))
        folder.chmod(0o755)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("3 50\n") and "cannot be written" in result.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_a_full_disk_is_reported_and_the_index_stays_as_it_was(tmp_path):
    store = FolderStore.create(tmp_path / "index", ABOUT)
    (tmp_path / "index" / "vectors.f32").symlink_to("/dev/full")
    message = sentence(store.put, *random_photos(5))
    assert "vectors.f32 cannot be written (No space left on device). The index is unchanged." in message
    assert len(store) == 0 and store.find(np.eye(1, DIM, dtype=np.float32), 3) == [[]]


def test_only_a_damaged_file_is_called_damaged(tmp_path, monkeypatch):
    store = FolderStore.create(tmp_path / "index", ABOUT)
    assert "free space" in str(store.records.unreadable(sqlite3.OperationalError("disk I/O error")))
    assert "free space" in str(store.records.unreadable(sqlite3.OperationalError("database or disk is full")))
    store.close()
    path = tmp_path / "index" / "records.sqlite"
    path.write_bytes(path.read_bytes()[:5_000] + bytes(5_000))
    assert "backup" in sentence(FolderStore.open, tmp_path / "index")


CHILD = """
import sys
import numpy as np
from pathlib import Path
from test_stores import ABOUT, DIM
from fashionern.search.stores.base import Photo
module, name, place = sys.argv[1:]
store = getattr(__import__(module, fromlist=[name]), name).create(place, ABOUT)
vectors = np.eye(DIM, dtype=np.float32)
for turn in range(100_000):
    batch = turn % 4
    store.put([Photo(f"{batch}-{i}", "/p", (turn, i, 0), {"turn": turn}) for i in range(DIM)], vectors)
    print(turn, flush=True)
    if turn % 3 == 1 and name == "FolderStore":  # a kill in its flush may damage Milvus Lite: search/stores/03_milvus
        store.refresh()
"""


@pytest.mark.parametrize("turns, wait", [(2, 0), (12, 0.003), (13, 0.01), (15, 0.02)])
def test_killed_during_puts(maker, turns, wait):
    kind, place = maker
    folders = Path(__file__).resolve().parents[:3]  # of this module, its helpers and the package
    paths = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, kind.__module__, kind.__name__, str(place)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    try:
        reported = [int(child.stdout.readline()) for _ in range(turns)]
        time.sleep(wait)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        reported += [int(line) for line in child.communicate()[0].splitlines()]
    store = kind.open(place)
    marks = store.marks()
    last = reported[-1]
    batches = [set() for _ in range(4)]
    for name, (turn, _, _) in marks.items():
        batches[int(name.split("-")[0])].add(turn)
    assert len(store) == len(marks) == DIM * sum(map(bool, batches))
    for batch, turn in enumerate(batches):
        expected = max((t for t in range(last + 1) if t % 4 == batch), default=None)
        assert turn <= {expected, last + 1} and len(turn) <= 1, "a batch is complete"
        assert turn or expected is None, "every reported put is in the store"
    found = store.find(np.eye(DIM, dtype=np.float32)[:1], 8)[0]
    assert {n for n, s in found if s > 0.5} == {n for n in marks if n.endswith("-0")}
    store.put([Photo("new", "/p")], np.eye(DIM, dtype=np.float32)[:1])
    store.close()
    assert len(kind.open(place)) == len(marks) + 1


@needs_milvus
def test_milvus_lite_is_open_in_one_process_at_a_time(tmp_path):
    from fashionern.search.stores.milvus import MilvusStore

    place = tmp_path / "index.db"
    first, second = MilvusStore.create(place, ABOUT), MilvusStore.open(place)
    first.close()
    second.put(*random_photos(3))  # another client of the folder still works
    code = (
        "import sys; from fashionern.search.stores.milvus import MilvusStore; print(len(MilvusStore.open(sys.argv[1])))"
    )
    other = [sys.executable, "-c", code, str(place)]
    refused = subprocess.run(other, capture_output=True, text=True)
    assert (
        refused.returncode
        and f"StoreUnavailableError: Milvus does not answer for {place} (" in refused.stderr
        and "has it open" in refused.stderr
    )
    second.close()
    assert subprocess.run(other, capture_output=True, text=True, check=True).stdout.strip() == "3"
    assert "was closed" in sentence(len, second)


@needs_milvus
def test_recall_is_measured_where_filters_are_hardest_for_a_graph():
    from fashionern.search.stores import milvus

    keys = [milvus._key(f"{i}.jpg") for i in range(20_000)]
    for matching, share in milvus._SHARES.items():
        field, operator, bound = matching.split()
        assert (field, operator) == ("id", "<")
        assert sum(key < json.loads(bound) for key in keys) / len(keys) == pytest.approx(share, abs=0.01)
    assert 0.07 < min(milvus._SHARES.values()) < 0.08, "a server compares less than 7 % one by one"
    assert milvus._random_filters(2_000) == [""], "narrower filters are always compared"
    assert milvus._random_filters(100_000) == ["", *milvus._SHARES]
    nearest = [[("a", 0.9), ("b", 0.8)]] * 4
    recalls = milvus._recalls([nearest[0], [("b", 0.8), ("a", 0.9)], [("a", 0.9), ("c", 0.7)], []], nearest)
    assert recalls.tolist() == [1.0, 1.0, 0.5, 0.0]
    assert milvus._at_least(np.array([1.0, 1.0, 0.9, 0.9])) == pytest.approx(0.95 - 2 * 0.05 / 2)


@needs_milvus
def test_kinds_addresses_and_names_that_milvus_refuses(tmp_path):
    from fashionern.search.stores.milvus import MilvusStore

    photos, vectors = random_photos(200)
    store = MilvusStore.create(tmp_path / "h.db", {**ABOUT, "kind": "hnsw"})
    store.put(photos, vectors)
    store.refresh()
    assert (
        np.mean(
            [
                set(dict(f)) == set(dict(nearest(photos, vectors, q, 10)))
                for q, f in zip(vectors, store.find(vectors, 10))
            ]
        )
        > 0.95
    )
    assert "Rename the file" in sentence(store.put, [Photo("\udc80.jpg", "/p")], vectors[:1])
    assert "bytes" in sentence(store.put, [Photo("x" * 70_000, "/p")], vectors[:1])
    assert len(store) == 200
    store.close()
    assert "ivf-pq" in sentence(MilvusStore.create, tmp_path / "i.db", {**ABOUT, "kind": "ivf-pq"})
    assert "ends in .db" in sentence(MilvusStore.create, tmp_path / "folder", ABOUT)
    assert "http://127.0.0.1:9#a (" in sentence(MilvusStore.open, "http://127.0.0.1:9#a")


@needs_milvus
def test_a_large_put_is_split_into_requests(tmp_path, monkeypatch):
    from fashionern.search.stores import milvus

    photos, vectors = random_photos(COUNT)
    monkeypatch.setattr(milvus, "MAX_REQUEST_BYTES", 4_000)
    monkeypatch.setattr(milvus, "ROWS_PER_PAGE", 70)
    sizes = [len(part) for part in milvus._split_requests([milvus._row(p, v) for p, v in zip(photos, vectors)])]
    assert len(sizes) > 20 and sum(sizes) == COUNT
    store = milvus.MilvusStore.create(tmp_path / "index.db", ABOUT)
    store.put(photos, vectors)
    assert store.marks() == {p.name: p.mark for p in photos}
    store.close()


@needs_server
@pytest.mark.parametrize("kind", ["exact", "hnsw", "ivf-pq"])
def test_a_server_finds_what_numpy_finds(kind):
    from fashionern.search.stores.milvus import MilvusStore

    count = {"exact": 5_000, "hnsw": 6_000, "ivf-pq": 10_500}[kind]
    vectors = clustered(count, 64)
    photos = [Photo(f"{i}.jpg", "/p", columns={"i": i, "shelf": "ab"[i % 2]}) for i in range(count)]
    store = MilvusStore.create(new_collection(), {**ABOUT, "kind": kind, "dim": 64})
    for at in range(0, count, 2_000):
        store.put(photos[at : at + 2_000], vectors[at : at + 2_000])
    queries = 0.8 * vectors[:40] + 0.6 * vectors[500:540]
    half = parse_filter("shelf = 'a'")
    for _ in range(2):  # before and after the refresh
        assert recall_at_10(store, photos, vectors, queries) > 0.95
        assert recall_at_10(store, photos[::2], vectors[::2], queries, half) > 0.95
        assert recall_at_10(store, photos[:300], vectors[:300], queries, parse_filter("i < 300")) > 0.95
        for i in range(10):
            (found,) = store.find(queries[i : i + 1], 5, parse_filter(f"i = {490 * i}"))
            assert [name for name, _ in found] == [f"{490 * i}.jpg"]
        facts = store.refresh()
    assert kind == "exact" or facts["recall@10"] >= 0.97 and facts["photos"] == count
    store.remove([p.name for p in photos[300:]])
    assert all(len(found) == 50 for found in store.find(queries, 50))
    assert recall_at_10(store, photos[:300], vectors[:300], queries) > 0.95
    store.close()


@needs_server
def test_what_a_server_refuses_is_said(tmp_path):
    from fashionern.search.stores.milvus import MilvusStore

    store = MilvusStore.create(new_collection(), ABOUT)
    photos, vectors = random_photos(20)
    store.put(photos, vectors)
    assert len(store.find(vectors[:1], 16_000)[0]) == 20
    with pytest.raises(StoreUnavailableError, match="server is running"):
        MilvusStore.open("http://127.0.0.1:9")
    store.close()


@needs_milvus
def test_the_reason_for_a_refused_filter_is_found_after_a_long_filter():
    from pymilvus import MilvusException

    from fashionern.search.stores.milvus import _translated

    long = " or ".join(['(columns["price"] == 1)'] * 100)
    parsing = f"cannot parse expression: {long}, error: "
    pattern = MilvusException(1, f"{parsing}unsupported pattern: %en, only prefix pattern match like ab%")
    assert "Use such a pattern" in str(_translated("http://127.0.0.1:19530", pattern))
    other = str(_translated("http://127.0.0.1:19530", MilvusException(1, f"{parsing}the field is unknown")))
    assert "refuses a request" in other and "the field is unknown" in other and len(other) < 400


class RestartingServer:
    "A client of a server that fails three times before it writes, and numbers its collection."

    def __init__(self, number: int = 1):
        self.number = number
        self.written = []
        self.failures = ["Fail connecting to server", "node not found[node=1]", "collection not loaded"]

    def describe_collection(self, name, timeout):
        return {"collection_id": self.number, "properties": {}}

    def upsert(self, name, timeout, data):
        from pymilvus import MilvusException

        if self.failures:
            raise MilvusException(1, self.failures.pop(0))
        self.written += [row["name"] for row in data]


@needs_milvus
def test_a_write_waits_for_a_server_that_restarts_and_refuses_another_collection(monkeypatch):
    from fashionern.search.stores import milvus

    monkeypatch.setattr(milvus.time, "sleep", lambda seconds: None)
    photos, vectors = random_photos(3)
    server = RestartingServer()
    store = milvus.MilvusStore("http://127.0.0.1:1", server, ABOUT, 1)
    store.put(photos, vectors)
    assert server.written == [p.name for p in photos] and server.failures == []
    server.number = 2
    for act in (lambda: store.put(photos, vectors), lambda: store.find(vectors, 3), store.marks, store.refresh):
        with pytest.raises(StoreUnavailableError, match="deleted or rebuilt"):
            act()
    monkeypatch.setattr(milvus, "_RESTART_SECONDS", 0)
    server.number = 1
    server.failures = ["Fail connecting to server"] * 2
    with pytest.raises(StoreUnavailableError, match="server is running"):
        store.put(photos, vectors)


def test_without_milvus_the_error_names_the_package(tmp_path, monkeypatch):
    from fashionern.search.stores.milvus import MilvusStore

    (tmp_path / "index.db").mkdir()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'fashionern[milvus]'" in sentence(MilvusStore.open, tmp_path / "index.db")
