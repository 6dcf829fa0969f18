"""The search page and batch search under load for minutes, with faults thrown in: bad uploads, cut connections, an index that is changed and swapped under them.

`python -m tests.soak` (ten minutes; --minutes for less) prints how many requests were answered, how fast, and the server's memory; it ends with 1 where an answer was wrong.
An answer is right where each photo has the score it has with the query alone, and no photo with a better one is missing that was there all the time.
"""

import argparse
import io
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

CLIENTS, TOLERANCE, WARM = 8, 1e-4, 20.0  # threads; of a score; seconds until memory is first looked at
SENTENCES = ("is red", "is longer", "has long sleeves", "")
Query = tuple[str, str]  # name of a reference, sentence


def ern(command: str, *args: str | Path) -> list[str]:
    return [sys.executable, "-c", f"from fashionern.cli.{command} import main; main()", *map(str, args)]


class Soak:
    "What is asked, what must come, and what was seen."

    def __init__(self, folder: Path, seconds: float, seed: int):
        self.folder, self.seed, self.end = folder, seed, time.monotonic() + seconds
        self.seen, self.times, self.wrong, self.lock = Counter(), [], [], threading.Lock()
        retriever = Retriever.from_pretrained(folder / "model").eval()
        stay, come = (sorted((folder / place).glob("*.png")) for place in ("photos", "later"))
        self.stay, self.come, everyone = {p.name for p in stay}, [p.name for p in come], [*stay, *come]
        targets, asked = retriever.encode_targets(everyone), [(p, s) for p in stay for s in SENTENCES]
        vectors = torch.cat([retriever.encode_queries([p], [s]) if s else retriever.encode_targets([p]) for p, s in asked])
        self.scores: dict[Query, dict[str, float]] = {
            (p.name, s): {q.name: float(v) for q, v in zip(everyone, row) if q != p} for (p, s), row in zip(asked, vectors @ targets.T)
        }

    def note(self, what: str, problem: str = "") -> None:
        with self.lock:
            self.seen[what] += 1
            if problem:
                self.wrong.append(f"{what}: {problem}")

    def check(self, query: Query, hits: list[dict], what: str) -> None:
        "An answer against what must come."
        known, got = self.scores[query], {h["name"]: h["score"] for h in hits}
        least = min(got.values(), default=2.0)
        missing = [n for n in self.stay - {query[0]} if known[n] > least + TOLERANCE and n not in got]
        other = [n for n, score in got.items() if abs(score - known.get(n, -2.0)) > TOLERANCE]
        self.note(what, f"{query}: missing {missing}, wrong {other}" if missing or other or len(got) != 9 else "")

    def until_end(self, work: Callable[[random.Random], None], number: int, pause: float = 0.0) -> threading.Thread:
        "A thread that works until the time is over; what it raises is wrong."

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
        "A visitor's question, by name or by an upload."
        name, sentence = rng.choice(list(self.scores))
        question = {"text": sentence, "k": 9, "name": name}
        if upload := rng.random() < 0.3:
            kept = client.post("/api/upload", content=(self.folder / "photos" / name).read_bytes())
            question = {"text": sentence, "k": 9, "upload": kept.json()["upload"]}
        began = time.monotonic()
        answer = client.post("/api/search", json=question)
        taken = time.monotonic() - began
        if answer.status_code != 200:
            self.note("search", f"{answer.status_code} {answer.text}")
            return
        with self.lock:
            self.times.append(taken)
        self.check((name, sentence), answer.json()["hits"], "search by upload" if upload else "search by name")
        photo = client.get(answer.json()["hits"][0]["photo"], params={"size": "small"})
        self.note("photo", "" if photo.status_code == 200 else photo.text)

    def harm(self, client: httpx.Client, rng: random.Random) -> None:
        "An upload or a question that must be refused in one sentence."
        noise, picture = rng.randbytes(rng.randrange(1, 5000)), io.BytesIO()
        Image.effect_noise((60, 60), 50).save(picture, "PNG")
        cut, huge = picture.getvalue()[: rng.randrange(8, 60)], b"\x89PNG\r\n\x1a\n" + bytes(30 * 2**20)
        questions = (noise, b"[" * 50_000, b'{"k": 1e99, "text": "x"}', b'{"name": "../model"}')
        path, content = rng.choice([("/api/upload", c) for c in (noise, cut, b"", b"<svg/>", huge)] + [("/api/search", c) for c in questions])
        try:
            answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
        except httpx.TransportError:  # it may end the connection of who sends too much
            self.note("refused", "" if content is huge else f"{path} {content[:40]!r}: the connection ended")
            return
        fine = 400 <= answer.status_code < 500 and list(answer.json()) == ["error"]
        self.note("refused", "" if fine else f"{path} {content[:40]!r}: {answer.status_code} {answer.text[:200]}")

    def cut(self, port: int, rng: random.Random) -> None:
        "A connection that ends in the middle of a request, or before its answer."
        body = json.dumps({"text": "is red", "name": rng.choice(sorted(self.stay))}).encode()
        request = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
            line.sendall(request[: rng.randrange(1, len(request) + 1)])
        self.note("connection cut")

    def change(self, index: Path) -> None:
        "Add photos and take them out again, as another process, and at last put another index in the place of this one."
        for round_ in range(10**6):
            if time.monotonic() > self.end:
                return
            args = ("remove", *self.come) if round_ % 2 else ("add", "--images", self.folder / "later", "--device", "cpu", "--num-workers", 0)
            done = subprocess.run(ern("index", *args, "--index", index), capture_output=True, text=True)
            self.note(f"index: {args[0]}", done.stderr[-300:] if done.returncode else "")
            if round_ % 6 == 5:
                shutil.copytree(index, index.with_name("next"))
                index.rename(index.with_name(f"old{round_}"))
                index.with_name("next").rename(index)
                self.note("index: swapped")
            time.sleep(5)

    def batch(self, index: Path, rng: random.Random) -> None:
        "Many questions at once by `ern_search`."
        asked, file = rng.sample(list(self.scores), 30), self.folder / "queries.jsonl"
        file.write_text("".join(json.dumps({"name": n, "text": s, "k": 9}) + "\n" for n, s in asked))
        done = subprocess.run(ern("search", "--index", index, "--queries", file, "--json", "--device", "cpu"), capture_output=True, text=True)
        if done.returncode:
            self.note("batch search", done.stderr[-300:])
            return
        for query, line in zip(asked, done.stdout.splitlines(), strict=True):
            self.check(query, json.loads(line)["hits"], "query of a batch search")


def memory(process: subprocess.Popen) -> float:
    "MB that a process holds."
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def soak(folder: Path, minutes: float, seed: int) -> int:
    "The exit status; prints the figures."
    torch.set_num_threads(1)
    prepare(folder)
    index = folder / "index"
    subprocess.run(ern("index", "build", "--images", folder / "photos", "--model", folder / "model", "--out", index, "--device", "cpu"), check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = index.with_name("batch")  # batch search has an index in which nothing is swapped: it opens it anew each time
    shutil.copytree(index, own)
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(ern("app", "--index", index, "--port", port, "--device", "cpu"), stdout=log, stderr=log)
    try:
        run = Soak(folder, minutes * 60, seed)
        client = httpx.Client(base_url=f"http://localhost:{port}", timeout=60, limits=httpx.Limits(max_connections=CLIENTS + 2))
        while True:
            try:
                client.get("/api/about").raise_for_status()
                break
            except httpx.TransportError:
                assert server.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.2)
        run.end = time.monotonic() + minutes * 60
        threads = [run.until_end(lambda rng: run.ask(client, rng), i) for i in range(CLIENTS)]
        threads += [run.until_end(lambda rng: run.harm(client, rng), 100, 0.5), run.until_end(lambda rng: run.cut(port, rng), 101, 0.2)]
        threads += [run.until_end(lambda rng: run.change(index), 102), run.until_end(lambda rng: run.batch(own, rng), 103, 10.0)]
        held = []
        while time.monotonic() < run.end:
            time.sleep(min(WARM, minutes * 15))
            held.append(memory(server))
        for thread in threads:
            thread.join(120)
        alive = server.poll() is None
    finally:
        server.terminate()
        server.wait(20)
    said = (folder / "server.log").read_text()
    tens = statistics.quantiles(run.times, n=100)
    print(", ".join(f"{n} {what}" for what, n in sorted(run.seen.items())))
    print(f"{len(run.times)} searches in {minutes:g} min, p50 {1000 * tens[49]:.0f} ms, p95 {1000 * tens[94]:.0f} ms; {len(run.wrong)} wrong answers or errors")
    print(f"memory of the server: {held[0]:.0f} MB at first, {held[-1]:.0f} MB at the end, {max(held):.0f} MB at most ({len(held)} looks)")
    print(*run.wrong[:20], sep="\n")
    if "Traceback" in said:
        print("the server's log holds a traceback:", said[-3000:])
    return int(bool(run.wrong) or not alive or "Traceback" in said)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of what is asked when (default: 0)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        sys.exit(soak(Path(place), asked.minutes, asked.seed))
