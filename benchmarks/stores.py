"""Measure an index of random vectors in clusters: in folders, or on a Milvus server of its own.

python benchmarks/stores.py folder --counts 100000 300000        every kind of index, in folders
python benchmarks/stores.py milvus --counts 100000               every kind of index, on the server of make test-milvus

Writes nbs/results/stores-folder.json or stores-milvus.json. Then python docs/figures.py writes the guide's tables.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fashionern.errors import FlagParser  # noqa: E402
from fashionern.search.inventory import open_store, store_class  # noqa: E402
from fashionern.search.stores.base import INDEX_KINDS, MIN_PHOTOS_FOR_APPROXIMATE, Photo  # noqa: E402
from fashionern.search.stores.filters import parse_filter  # noqa: E402

CLUSTERS = 1_000
PER_PUT = 1_000  # photos
FILTERS = {"a tenth": "shelf = 3", "a hundredth": "price < 10", "one photo": "number = 77"}
CHANGED = 1_000  # photos that are updated, then removed


def vectors_of(count: int, dim: int, seed: int = 0) -> np.ndarray:
    "(count, dim) unit vectors in clusters; more than `count` begin with the same ones."
    centres = np.random.default_rng(1).standard_normal((CLUSTERS, dim), dtype=np.float32)
    parts = []
    for at in range(0, count, PER_PUT):
        rng = np.random.default_rng([seed, at])
        parts.append(centres[rng.integers(CLUSTERS, size=PER_PUT)])
        parts[-1] += 0.7 * rng.standard_normal((PER_PUT, dim), dtype=np.float32)
    vectors = np.concatenate(parts)[:count]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def queries_of(vectors: np.ndarray, count: int) -> np.ndarray:
    "Queries between two photos, as composed queries are."
    rng = np.random.default_rng(2)
    first, second = rng.choice(len(vectors), (2, count))
    return 0.8 * vectors[first] + 0.6 * vectors[second]


def photos_of(count: int) -> list[Photo]:
    rng = np.random.default_rng(3)
    prices = rng.integers(1_000, size=count).tolist()
    return [
        Photo(f"{i}.jpg", f"/photos/{i}.jpg", (1, 2, i), {"shelf": i % 10, "price": prices[i], "number": i})
        for i in range(count)
    ]


def search(place: str, count: int, dim: int, queries_count: int) -> dict[str, Any]:
    "Times, recall and memory of searches in a process that only searches."
    vectors = vectors_of(count, dim)
    photos = photos_of(count)
    queries = queries_of(vectors, queries_count)
    scores = queries @ vectors.T
    columns = {name: np.array([p.columns[name] for p in photos]) for name in photos[0].columns}
    kept = {
        "all": np.ones(count, dtype=bool),
        "a tenth": columns["shelf"] == 3,
        "a hundredth": columns["price"] < 10,
        "one photo": columns["number"] == 77,
    }
    nearest = {}
    for name, rows in kept.items():
        best = np.argsort(np.where(rows, -scores, np.inf), axis=1)[:, : min(10, rows.sum())]
        nearest[name] = [{photos[i].name for i in row} for row in best]
    del vectors, scores, photos
    before = memory()
    start = time.perf_counter()
    store = open_store(place)
    store.find(queries[:1], 10)
    found: dict[str, Any] = {"open": time.perf_counter() - start}
    for name in kept:
        where = parse_filter(FILTERS[name]) if name in FILTERS else None
        seconds = []
        shares = []
        for query, names in zip(queries, nearest[name]):
            start = time.perf_counter()
            (hits,) = store.find(query[None], 10, where)
            seconds.append(time.perf_counter() - start)
            shares.append(len(names & {n for n, _ in hits}) / len(names))
        p50, p95 = np.percentile(seconds, [50, 95]).tolist()
        found[name] = {"p50": p50, "p95": p95, "recall": float(np.mean(shares))}
    found["memory"] = memory() - before
    store.close()
    return found


def memory() -> int:
    "Bytes of memory that this process uses now, files that it has mapped included; on Linux."
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def in_process(function: Any, *args: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def measure(
    place: str, kind: str, count: int, dim: int, queries: int, data: Path, server: Optional[Any] = None
) -> dict[str, Any]:
    "Build an index, search it, change it; and kill its server during puts, if it has one."
    vectors = vectors_of(count, dim)
    photos = photos_of(count)
    start = time.perf_counter()
    cpu = time.process_time()
    store = store_class(place).create(place, {"dim": dim, "kind": kind, "model": "", "identity": ""})
    for at in range(0, count, PER_PUT):
        store.put(photos[at : at + PER_PUT], vectors[at : at + PER_PUT])
    put = time.perf_counter() - start
    facts = store.refresh()
    result = {"kind": kind, "count": count, "dim": dim, "put": put, "build": time.perf_counter() - start}
    result["build cpu"] = time.process_time() - cpu  # of this process: what a build takes on an idle machine
    result |= {"index": facts.get("index", kind), "promised": facts.get("recall@10", 1.0)}
    result["disk"] = sum(f.stat().st_size for f in data.rglob("*") if f.is_file())
    if server is not None:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        result["server memory"] = 1024 * int(status.partition("VmRSS:")[2].split()[0])
    result["search"] = in_process(search, place, count, dim, queries)
    start = time.perf_counter()
    store.put(photos[:CHANGED], vectors[-CHANGED:])
    store.refresh()
    result["update"] = time.perf_counter() - start
    start = time.perf_counter()
    assert store.remove([p.name for p in photos[:CHANGED]]) == CHANGED
    store.refresh()
    result["remove"] = time.perf_counter() - start
    if server is not None:
        result["kill"] = kill(store, server, photos[:CHANGED], vectors[:CHANGED])
        start = time.perf_counter()
        store.close()
        store = open_store(place)  # waits until the server has loaded it again
        result["kill"]["reopened"] = time.perf_counter() - start
    assert len(store) == count - (CHANGED if server is None else 0)
    store.close()
    return result


def kill(store: Any, server: Any, photos: list[Photo], vectors: np.ndarray) -> dict[str, float]:
    "Put photos while the server is killed and started; returns seconds: of its start, the longest put, the usual one."
    seconds = []

    def put() -> None:
        for at in range(0, len(photos), 50):
            start = time.perf_counter()
            store.put(photos[at : at + 50], vectors[at : at + 50])
            seconds.append(time.perf_counter() - start)

    with ThreadPoolExecutor(1) as pool:
        putting = pool.submit(put)
        while len(seconds) < 4 and not putting.done():
            time.sleep(0.01)
        server.kill()
        start = time.perf_counter()
        server.start()
        started = time.perf_counter() - start
        putting.result()
    return {"start": started, "longest": max(seconds), "usual": float(np.median(seconds))}


def main() -> None:
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", choices=("folder", "milvus"))
    parser.add_argument("--counts", type=int, nargs="+", default=[100_000], help="photos")
    parser.add_argument("--dims", type=int, nargs="+", default=[256])
    parser.add_argument("--kinds", nargs="+", choices=INDEX_KINDS, default=list(INDEX_KINDS))
    parser.add_argument("--queries", type=int, default=100, help="for each filter, and without one")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    given = parser.parse_args()
    out = ROOT / "nbs" / "results" / f"stores-{given.store}.json"
    about = {"cpu": _cpu(), "threads": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))}
    about |= {"note": given.note, "date": time.strftime("%Y-%m-%d")}
    earlier = json.loads(out.read_text())["results"] if out.exists() else []
    for dim in given.dims:
        for count in given.counts:
            for kind in given.kinds:
                if count < MIN_PHOTOS_FOR_APPROXIMATE.get(kind, 0):
                    continue
                result = one(given.store, kind, count, dim, given.queries)
                print(json.dumps(result), flush=True)
                same = (kind, count, dim)
                earlier = [r for r in earlier if (r["kind"], r["count"], r["dim"]) != same] + [result]
                out.write_text(json.dumps({"machine": about, "results": earlier}, indent=1) + "\n")


def one(store: str, kind: str, count: int, dim: int, queries: int) -> dict[str, Any]:
    "One measurement in a folder of its own."
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        if store == "folder":
            return measure(str(data), kind, count, dim, queries, data)
        from milvus_server import MilvusServer

        with MilvusServer(data) as server:
            return measure(f"{server.address}#index", kind, count, dim, queries, data, server)


def _cpu() -> str:
    cpus = Path("/proc/cpuinfo")
    for line in cpus.read_text().splitlines() if cpus.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
