"""The search page and batch search under load, with bad uploads, cut connections and a changing index.

`python -m tests.soak` (ten minutes; --minutes for less) prints the number of answers, their latency
and the server's memory. It exits with 1 if an answer was wrong.
An answer is correct if each photo has the score it has with the query alone,
and no better photo is missing that was in the index all the time.
"""

import argparse
import io
import itertools
import json
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Callable

import httpx
import torch
from PIL import Image

from fashionern.models.hub import Retriever

from .faults.indexes import prepare

CLIENTS = 8  # threads
TOLERANCE = 1e-4  # of a score
WARM_UP_SECONDS = 20.0  # until memory is first measured
TEXTS = ("is red", "is longer", "has long sleeves", "")
Query = tuple[str, str]  # name of a reference, text


def ern(command: str, *args: str | Path) -> list[str]:
    return [sys.executable, "-c", f"from fashionern.cli.{command} import main; main()", *map(str, args)]


class Soak:
    "The queries, their expected answers, and the results."

    def __init__(self, folder: Path, seconds: float, seed: int):
        self.folder = folder
        self.seed = seed
        self.end = time.monotonic() + seconds
        self.seen = Counter()
        self.times = []
        self.wrong = []
        self.lock = threading.Lock()
        retriever = Retriever.from_pretrained(folder / "model").eval()
        permanent = sorted((folder / "photos").glob("*.png"))
        temporary = sorted((folder / "later").glob("*.png"))
        self.permanent = {p.name for p in permanent}
        self.temporary = [p.name for p in temporary]
        photos = [*permanent, *temporary]
        targets = retriever.encode_targets(photos)
        self.scores: dict[Query, dict[str, float]] = {}
        for photo, text in itertools.product(permanent, TEXTS):
            query = retriever.encode_queries([photo], [text]) if text else retriever.encode_targets([photo])
            scores = (query @ targets.T)[0].tolist()
            self.scores[photo.name, text] = {p.name: s for p, s in zip(photos, scores) if p != photo}

    def note(self, what: str, problem: str = "") -> None:
        with self.lock:
            self.seen[what] += 1
            if problem:
                self.wrong.append(f"{what}: {problem}")

    def check(self, query: Query, hits: list[dict], what: str) -> None:
        "Compare an answer with the expected scores."
        expected = self.scores[query]
        found = {h["name"]: h["score"] for h in hits}
        lowest = min(found.values(), default=2.0)
        missing = [n for n in self.permanent - {query[0]} if expected[n] > lowest + TOLERANCE and n not in found]
        wrong = [n for n, score in found.items() if abs(score - expected.get(n, -2.0)) > TOLERANCE]
        self.note(what, f"{query}: missing {missing}, wrong {wrong}" if missing or wrong or len(found) != 9 else "")

    def until_end(self, work: Callable[[random.Random], None], number: int, pause: float = 0.0) -> threading.Thread:
        "A thread that works until the end; an exception counts as wrong."

        def run() -> None:
            rng = random.Random(self.seed * 1000 + number)
            while time.monotonic() < self.end:
                try:
                    work(rng)
                except Exception as e:
                    self.note("raised", f"{type(e).__name__} {e}")
                time.sleep(pause)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def ask(self, client: httpx.Client, rng: random.Random) -> None:
        "A visitor's query, by name or by an upload."
        name, text = rng.choice(list(self.scores))
        query = {"text": text, "k": 9, "name": name}
        is_upload = rng.random() < 0.3
        if is_upload:
            kept = client.post("/api/upload", content=(self.folder / "photos" / name).read_bytes())
            query = {"text": text, "k": 9, "upload": kept.json()["upload"]}
        began = time.monotonic()
        answer = client.post("/api/search", json=query)
        taken = time.monotonic() - began
        if answer.status_code != 200:
            self.note("search", f"{answer.status_code} {answer.text}")
            return
        with self.lock:
            self.times.append(taken)
        self.check((name, text), answer.json()["hits"], "search by upload" if is_upload else "search by name")
        photo = client.get(answer.json()["hits"][0]["photo"], params={"size": "small"})
        self.note("photo", "" if photo.status_code == 200 else photo.text)

    def harm(self, client: httpx.Client, rng: random.Random) -> None:
        "An upload or a query that must be refused with one error message."
        noise = rng.randbytes(rng.randrange(1, 5000))
        picture = io.BytesIO()
        Image.effect_noise((60, 60), 50).save(picture, "PNG")
        cut = picture.getvalue()[: rng.randrange(8, 60)]
        huge = b"\x89PNG\r\n\x1a\n" + bytes(30 * 2**20)
        queries = (noise, b"[" * 50_000, b'{"k": 1e99, "text": "x"}', b'{"name": "../model"}')
        path, content = rng.choice(
            [("/api/upload", c) for c in (noise, cut, b"", b"<svg/>", huge)] + [("/api/search", c) for c in queries]
        )
        try:
            answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
        except httpx.TransportError:  # the server may close the connection of a client that sends too much
            self.note("refused", "" if content is huge else f"{path} {content[:40]!r}: the connection ended")
            return
        fine = 400 <= answer.status_code < 500 and list(answer.json()) == ["error"]
        self.note("refused", "" if fine else f"{path} {content[:40]!r}: {answer.status_code} {answer.text[:200]}")

    def cut(self, port: int, rng: random.Random) -> None:
        "A connection that ends during a request, or before its answer."
        body = json.dumps({"text": "is red", "name": rng.choice(sorted(self.permanent))}).encode()
        request = (
            b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
            line.sendall(request[: rng.randrange(1, len(request) + 1)])
        self.note("connection cut")

    def change(self, index: Path) -> None:
        "Add photos and remove them again from another process; every sixth round, swap the index for a copy."
        for round_ in range(10**6):
            if time.monotonic() > self.end:
                return
            args = (
                ("remove", *self.temporary)
                if round_ % 2
                else ("add", "--images", self.folder / "later", "--device", "cpu", "--num-workers", 0)
            )
            done = subprocess.run(ern("index", *args, "--index", index), capture_output=True, text=True)
            self.note(f"index: {args[0]}", done.stderr[-300:] if done.returncode else "")
            if round_ % 6 == 5:
                shutil.copytree(index, index.with_name("next"))
                index.rename(index.with_name(f"old{round_}"))
                index.with_name("next").rename(index)
                self.note("index: swapped")
            time.sleep(5)

    def batch(self, index: Path, rng: random.Random) -> None:
        "Many queries at once by `ern_search`."
        queries = rng.sample(list(self.scores), 30)
        file = self.folder / "queries.jsonl"
        file.write_text("".join(json.dumps({"name": n, "text": s, "k": 9}) + "\n" for n, s in queries))
        done = subprocess.run(
            ern("search", "--index", index, "--queries", file, "--json", "--device", "cpu"),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            self.note("batch search", done.stderr[-300:])
            return
        for query, line in zip(queries, done.stdout.splitlines(), strict=True):
            self.check(query, json.loads(line)["hits"], "query of a batch search")


def memory(process: subprocess.Popen) -> float:
    "Resident memory of a process in MB."
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def soak(folder: Path, minutes: float, seed: int) -> int:
    "Run the test and print its figures; returns the exit status."
    torch.set_num_threads(1)
    prepare(folder)
    index = folder / "index"
    subprocess.run(
        ern(
            "index",
            "build",
            "--images",
            folder / "photos",
            "--model",
            folder / "model",
            "--out",
            index,
            "--device",
            "cpu",
        ),
        check=True,
        capture_output=True,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    batch_index = index.with_name("batch")  # batch search opens its index each time, so its index is not swapped
    shutil.copytree(index, batch_index)
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(
            ern("app", "--index", index, "--port", port, "--device", "cpu"), stdout=log, stderr=log
        )
    try:
        run = Soak(folder, minutes * 60, seed)
        client = httpx.Client(
            base_url=f"http://localhost:{port}", timeout=60, limits=httpx.Limits(max_connections=CLIENTS + 2)
        )
        while True:
            try:
                client.get("/api/about").raise_for_status()
                break
            except httpx.TransportError:
                assert server.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.2)
        run.end = time.monotonic() + minutes * 60
        threads = [run.until_end(lambda rng: run.ask(client, rng), i) for i in range(CLIENTS)]
        threads += [
            run.until_end(lambda rng: run.harm(client, rng), 100, 0.5),
            run.until_end(lambda rng: run.cut(port, rng), 101, 0.2),
        ]
        threads += [
            run.until_end(lambda rng: run.change(index), 102),
            run.until_end(lambda rng: run.batch(batch_index, rng), 103, 10.0),
        ]
        held = []
        while time.monotonic() < run.end:
            time.sleep(min(WARM_UP_SECONDS, minutes * 15))
            held.append(memory(server))
        for thread in threads:
            thread.join(120)
        alive = server.poll() is None
    finally:
        server.terminate()
        server.wait(20)
    log_text = (folder / "server.log").read_text()
    percentiles = statistics.quantiles(run.times, n=100)
    print(", ".join(f"{n} {what}" for what, n in sorted(run.seen.items())))
    print(
        f"{len(run.times)} searches in {minutes:g} min, p50 {1000 * percentiles[49]:.0f} ms, "
        f"p95 {1000 * percentiles[94]:.0f} ms; "
        f"{len(run.wrong)} wrong answers or errors"
    )
    print(
        f"memory of the server: {held[0]:.0f} MB at first, {held[-1]:.0f} MB at the end, "
        f"{max(held):.0f} MB peak ({len(held)} measurements)"
    )
    print(*run.wrong[:20], sep="\n")
    if "Traceback" in log_text:
        print("the server's log contains a traceback:", log_text[-3000:])
    return int(bool(run.wrong) or not alive or "Traceback" in log_text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the queries and their timing (default: 0)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        sys.exit(soak(Path(place), args.minutes, args.seed))
