"The server of the search page: every visitor gets the own answer, and nothing that is sent does harm."

import io
import json
import struct
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from tiny_index import tiny_searcher

TestClient = pytest.importorskip("starlette.testclient", reason="the search page needs the extra [app], and its tests httpx").TestClient

from fashionern.errors import ErnError  # noqa: E402
from fashionern.web.app import MAX_UPLOAD, create_app, listen, photo_id  # noqa: E402  they need the extra too


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    return tiny_searcher(tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="module")
def client(searcher):
    with TestClient(create_app(searcher, ["is red"]), base_url="http://localhost:7860") as client:
        yield client


def said(answer, status: int) -> str:
    "The one sentence of an error."
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"] and "Traceback" not in answer.text and "/" not in answer.json()["error"].replace("text/", "").replace("application/json", "")
    return answer.json()["error"]


def picture(kind: str = "PNG", size=(60, 80)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "teal").save(out, kind)
    return out.getvalue()


def names(answer) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [hit["name"] for hit in answer.json()["hits"]]


def test_about_and_page(client, searcher):
    about = client.get("/api/about").json()
    assert about["size"] == 40 and about["model"] == "dvr@mask_padding" and about["examples"] == ["is red"]
    assert set(about["columns"]["brand"]) == {"O'Neill", "Été & fils"} and 12.0 in about["columns"]["price"]
    for path, kind in {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript", "/icon.svg": "image/svg+xml"}.items():
        answer = client.get(path)
        assert answer.headers["content-type"].startswith(kind) and answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"] and "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff" and "access-control-allow-origin" not in answer.headers
    assert "http" not in client.get("/page.css").text and "innerHTML" not in client.get("/page.js").text and " style=" not in client.get("/").text


def test_labels_of_the_cards(searcher):
    with TestClient(create_app(searcher, labels=["price", "brand"]), base_url="http://localhost") as client:
        assert client.get("/api/about").json()["labels"] == ["price", "brand"]
    with pytest.raises(ErnError, match="no column of the index named 'prize'. Did you mean 'price'"):
        create_app(searcher, labels=["prize"])


def test_gallery_and_photos(client):
    first, second = (client.get(f"/api/gallery?offset={at}&count=20").json()["photos"] for at in (0, 20))
    assert len({p["name"] for p in first + second}) == 40
    for size, side in (("small", 96), ("large", 96)):
        answer = client.get(first[0]["photo"], params={"size": size})
        photo = Image.open(io.BytesIO(answer.content))
        assert (answer.headers["content-type"], photo.format, max(photo.size)) == ("image/jpeg", "JPEG", side) and "max-age" in answer.headers["cache-control"]
    for wrong in ("offset=x", "offset=-1", "count=0", "count=9999"):
        said(client.get(f"/api/gallery?{wrong}"), 400)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "women/../women/01.png", "nothing.png", "x" * 500])
def test_no_path_is_served(client, path):
    said(client.get(f"/photo/{photo_id(path)}"), 404)
    said(client.get(f"/photo/{path.replace('/', '%2f')}"), 404)
    for root in ("/", "/photo/", "/upload/", "/page/"):
        assert client.get(f"{root}{path}").status_code == 404 or root + path == "/"
    said(client.post("/api/search", json={"name": path}), 404)
    said(client.post("/api/why", json={"text": "red", "hit": path}), 404)


def test_search_of_every_kind(client, searcher):
    name = "women/01.png"
    hits = client.post("/api/search", json={"name": name, "text": "is red", "k": 5}).json()["hits"]
    assert [h["name"] for h in hits] == [h.name for h in searcher.search_many([_query(name, "is red", 5)])[0]]
    assert all(set(h) == {"name", "photo", "score", "columns"} for h in hits), "no path leaves the server"
    assert name not in names(client.post("/api/search", json={"name": name}))
    assert names(client.post("/api/search", json={"name": name, "keep_reference": True}))[0] == name
    assert names(client.post("/api/search", json={"text": "a red dress", "k": 3}))
    quoted = names(client.post("/api/search", json={"text": "red", "where": {"brand": "O'Neill"}, "k": 40}))
    assert len(quoted) == 20 and all(n.startswith("O'Neill") for n in quoted)
    both = client.post("/api/search", json={"text": "red", "where": {"brand": ["O'Neill"], "price": 12}, "filter": "price > 99 or price < 13", "k": 40}).json()["hits"]
    assert both and all(h["columns"]["price"] == 12 for h in both)
    assert names(client.post("/api/search", json={"text": "red", "where": {"brand": "x' or 'a' = 'a"}})) == []
    ways = ({"where": "price = 12"}, {"filter": "price = 12"}, {"where": {"price": 12}})
    said_alike = [names(client.post("/api/search", json={"text": "red", "k": 40, **asked})) for asked in ways]
    assert said_alike[0] and said_alike[0] == said_alike[1] == said_alike[2]
    assert names(client.post("/api/search", json={"text": "red", "where": "price < 13", "filter": "price > 13"})) == []


def _query(name, text, k):
    from fashionern.search.searcher import Query

    return Query(name=name, text=text, k=k)


def test_upload_is_searched_and_left_out(client, searcher):
    data = Path(searcher.store.get(["women/03.png"])[0].path).read_bytes()
    kept = client.post("/api/upload", content=data).json()
    assert Image.open(io.BytesIO(client.get(kept["photo"]).content)).size == (kept["width"], kept["height"]) == (96, 96)
    by_upload = names(client.post("/api/search", json={"upload": kept["upload"], "text": "is red", "k": 40}))
    assert by_upload == names(client.post("/api/search", json={"name": "women/03.png", "text": "is red", "k": 40})), "its own photo of the index is left out"
    said(client.post("/api/search", json={"upload": "never-was"}), 404)
    said(client.get("/upload/never-was"), 404)


def _png(width: int, height: int) -> bytes:
    part = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(b"")) + part(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_uploads_that_are_refused(client):
    for data in (b"", b"hello", b"<svg onload=alert(1)>", picture("JPEG", (900, 900))[:400], picture("PPM")):
        assert "no picture" in said(client.post("/api/upload", content=data), 400)
    for bomb in (_png(10_000, 10_000), _png(60_000, 60_000), _png(2**31 - 1, 2**31 - 1)):
        assert "million" in said(client.post("/api/upload", content=bomb), 400)
    assert "10 MB" in said(client.post("/api/upload", content=b"x" * (MAX_UPLOAD + 1)), 413)
    assert "10 MB" in said(client.post("/api/upload", content=(b"x" * 1_000_000 for _ in range(30))), 413), "no length was told"


@pytest.mark.parametrize("text", ["أطول وأغمق", "更长的袖子", "длиннее", "🧵👗", "e\u0301\u200b\u202e", "<b>'\";--\\", "\x00\x07", "x" * 2000])
def test_text_of_any_script(client, text):
    assert names(client.post("/api/search", json={"name": "women/01.png", "text": text, "k": 2}))


def test_half_a_character(client):
    body = b'{"name": "women/01.png", "text": "\\ud800 is red", "where": {"brand": "\\udfff"}}'
    assert names(client.post("/api/search", content=body, headers={"content-type": "application/json"})) == []


@pytest.mark.parametrize(
    "asked",
    [{}, {"text": "  "}, {"text": "x" * 2001}, {"text": 5}, {"name": ["a"]}, {"text": "a", "k": 0}, {"text": "a", "k": 97}, {"text": "a", "k": True}, {"text": "a", "k": "5"},
     {"text": "a", "where": ["x"]}, {"text": "a", "where": {"colour": {"$ne": 1}}}, {"text": "a", "where": {"no such column": 1}}, {"text": "a", "filter": "price <"},
     {"text": "a", "filter": "price < 1) or (price > 0", "where": {"price": 10}}, {"text": "a", "keep_reference": 1}, {"name": "women/01.png", "upload": "x"},
     {"text": "a", "where": {"colour": []}}, {"text": "a", "where": "price < 1) or (price > 0", "filter": "price > 0"}, {"text": "a", "where": "x" * 60_000}],
)  # fmt: skip
def test_questions_that_are_refused(client, asked):
    said(client.post("/api/search", json=asked), 400)


def test_bodies_that_are_no_json_object(client):
    send = lambda body, kind="application/json": client.post("/api/search", content=body, headers={"content-type": kind})
    for body in (b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 60_000, b'{"text": NaN}'):
        said(send(body), 400)
    said(send(b'{"text": "' + b"x" * 70_000 + b'"}'), 413)
    said(send(b'{"text": "red"}', "text/plain"), 415)
    said(client.get("/api/search"), 405)
    said(client.get("/no/such"), 404)


def test_why(client):
    why = client.post("/api/why", json={"name": "women/01.png", "text": "is red", "hit": "women/03.png"}).json()
    assert abs(why["base"] + why["image"] + why["text"] - why["score"]) < 1e-5
    assert [word for word, _ in why["words"]] == ["is", "red"] and len(why["crops"]) == len(why["result_crops"]) == 13
    hit = client.post("/api/search", json={"name": "women/01.png", "text": "is red", "k": 40}).json()["hits"]
    assert abs(next(h["score"] for h in hit if h["name"] == "women/03.png") - why["score"]) < 1e-3


def test_hosts_and_origins(client, searcher):
    for host in ("127.0.0.1:7860", "[::1]:7860", "localhost"):
        assert client.get("/api/about", headers={"host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example:7860", "", "127.0.0.1@evil.example"):
        said(client.get("/", headers={"host": host}), 421)
    for origin in ("http://evil.example", "null", "http://localhost:9999"):
        said(client.post("/api/upload", content=picture(), headers={"origin": origin}), 403)
    assert client.post("/api/upload", content=picture(), headers={"origin": "http://localhost:7860"}).status_code == 200
    anywhere = TestClient(create_app(searcher, allowed_hosts=["*"]), base_url="http://shop.example")
    assert anywhere.get("/api/about").status_code == 200


def test_32_at_once_get_each_its_own(client, searcher):
    asked = [{"name": f"women/{i:02}.png", "text": f"is {c}", "k": 4, "keep_reference": i % 4 == 1} for i in range(1, 17, 2) for c in ("red", "blue", "long", "green")]
    asked[7] = {"text": "red", "where": {"no such column": 1}}
    alone = [client.post("/api/search", json=a) for a in asked]
    ready = threading.Barrier(len(asked))

    def ask(question):
        ready.wait()
        return client.post("/api/search", json=question)

    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(ask, asked))
    assert [a.status_code for a in together] == [400 if i == 7 else 200 for i in range(32)]
    for one, other in zip(alone, together):
        if one.status_code == 200:
            a, b = ({h["name"]: h["score"] for h in x.json()["hits"]} for x in (one, other))
            assert sorted(a.values()) == pytest.approx(sorted(b.values()), abs=1e-5) and len(a.keys() & b.keys()) >= 3


def test_a_batch_is_one_call_and_a_full_queue_says_so(searcher, monkeypatch):
    sizes, go = [], threading.Event()

    def slow(queries):
        sizes.append(len(queries))
        go.wait(20)
        return [[] for _ in queries]

    monkeypatch.setattr(type(searcher), "search_many", lambda self, queries: slow(queries))
    with TestClient(create_app(searcher), base_url="http://localhost") as client, ThreadPoolExecutor(320) as pool:
        waiting = [pool.submit(client.post, "/api/search", json={"text": "red"}) for _ in range(320)]
        refused = next(f for f in iter(lambda: next((f for f in waiting if f.done()), None), 0) if f)
        go.set()
        answers = [f.result() for f in waiting]
    assert "try again" in said(refused.result(), 503)
    assert {a.status_code for a in answers} == {200, 503} and max(sizes) == 32


def test_what_nobody_foresaw_is_not_told(searcher, monkeypatch, caplog):
    monkeypatch.setattr(type(searcher), "search_many", lambda self, queries: 1 / 0)
    with TestClient(create_app(searcher), base_url="http://localhost") as client:
        assert "log" in said(client.post("/api/search", json={"text": "red"}), 500)
        assert client.get("/api/about").status_code == 200
    assert "ZeroDivisionError" in caplog.text


def test_a_photo_whose_file_is_gone(tmp_path):
    searcher = tiny_searcher(tmp_path, 6, 48)
    (tmp_path / "photos" / "women" / "01.png").unlink()
    with TestClient(create_app(searcher), base_url="http://localhost") as client:
        assert "women" in client.get(f"/photo/{photo_id('women/01.png')}").json()["error"]
        answer = client.post("/api/search", json={"name": "women/01.png"})
        assert answer.status_code == 400 and str(tmp_path) not in answer.text


def test_a_port_that_is_taken():
    with listen("127.0.0.1", 0) as bound, pytest.raises(ErnError, match="--port"):
        listen("127.0.0.1", bound.getsockname()[1])


def test_without_the_extra():
    code = "import sys; sys.modules['starlette'] = None\nfrom fashionern.errors import exit_on_error\nwith exit_on_error():\n    import fashionern.web.guard"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 2 and "pip install 'fashionern[app]'" in ended.stderr and "make app" in ended.stderr
    assert json.dumps(ended.stderr).count("error:") == 1
