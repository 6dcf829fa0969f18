"The search page: requests from browsers and others to its server."

import asyncio
import functools
import io
import json
import socket
import tempfile
import threading
from pathlib import Path

from PIL import Image
from tiny_index import tiny_searcher

from fashionern.errors import ErnError
from fashionern.search.searcher import Searcher
from fashionern.search.stores.filters import parse_filter
from fashionern.web.app import build_filter, create_app, listen, make_server, photo_name, read_text
from fashionern.web.config import photo_id
from fashionern.web.guard import HEADERS, host_name, origin_netloc

from . import draw
from .harness import BrokenContract, target
from .hostile import CHANGES, RARELY, STEPS, TEXTS, changed, damaged, json_bytes

_KEPT: dict = {}


@functools.cache
def _searcher() -> Searcher:
    folder = tempfile.TemporaryDirectory()
    _KEPT["folder"] = folder  # deleted when the program ends
    return tiny_searcher(Path(folder.name), 8, 48)


def _app():
    "The application, created in the process that uses it, because it has a thread."
    if "app" not in _KEPT:
        _KEPT["app"], _KEPT["loop"] = create_app(_searcher(), ["is red"]), asyncio.new_event_loop()
    return _KEPT["app"]


async def _asked(app, method: str, path: str, query: bytes, headers: list, parts: list[bytes]) -> tuple[int, dict, bytes]:
    "Status, headers and body of the response to one request."
    sent, out = [*parts], {"body": b""}

    async def receive():
        return {"type": "http.request", "body": sent.pop(0) if sent else b"", "more_body": bool(sent)}

    async def send(message):
        if message["type"] == "http.response.start":
            out.update(status=message["status"], headers=dict(message["headers"]))
        else:
            out["body"] += message.get("body", b"")

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http", "path": path, "raw_path": path.encode("utf-8", "replace"), "query_string": query,
             "root_path": "", "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 7860)}  # fmt: skip
    await app(scope, receive, send)
    return out["status"], out["headers"], out["body"]


def _answered(method: str, path: str, query: bytes = b"", body: bytes = b"", kind: bytes = b"application/json", host: bytes = b"localhost:7860", more: tuple = (), cut: int = 1) -> None:
    "Send a request and check the response: a one-line error or a result, no server error, all headers."
    headers = [(b"host", host), (b"content-type", kind), (b"content-length", str(len(body)).encode()), *more]
    parts = [body[i : i + len(body) // cut + 1] for i in range(0, len(body), len(body) // cut + 1)] or [b""]
    app = _app()
    status, got, answer = _KEPT["loop"].run_until_complete(asyncio.wait_for(_asked(app, method, path, query, headers, parts), 60))
    if any(got.get(k.encode()) != v.encode() for k, v in HEADERS.items()):
        raise BrokenContract("a response without the page's headers", (status, got))
    if status >= 400:
        told = json.loads(answer)
        if status >= 500 or list(told) != ["error"] or len(told["error"]) > 4_500 or str(Path(_KEPT["folder"].name)) in told["error"]:
            raise BrokenContract(f"status {status}", answer[:300])
        raise ErnError(told["error"])


QUESTION = {"text": "is red", "name": "women/01.png", "k": 3, "keep_reference": False, "where": {"colour": ["red", "blue"], "price": 10.0}, "filter": "price < 20", "hit": "women/03.png"}
SHORT = {"text": "is red", "k": 3}
BODIES = draw.builds(json_bytes, draw.sampled_from((QUESTION, SHORT, {**SHORT, "upload": "x"}, {**SHORT, "text_weight": 0.5})), CHANGES, RARELY)


@target("page-search", BODIES, 0.25, ready=_searcher)
def _(body: bytes, folder: Path) -> None:
    _answered("POST", "/api/search", body=body)


@target("page-facets", BODIES, 0.1, ready=_searcher)
def _(body: bytes, folder: Path) -> None:
    _answered("POST", "/api/facets", body=body)


@target("page-why", BODIES, 0.05, ready=_searcher)
def _(body: bytes, folder: Path) -> None:
    _answered("POST", "/api/why", body=body)


def _picture() -> bytes:
    out = io.BytesIO()
    Image.effect_noise((24, 16), 80).convert("RGB").save(out, "PNG")
    return out.getvalue()


@target("page-upload", draw.tuples(draw.builds(damaged, draw.just(_picture()), STEPS), draw.integers(1, 4)), 0.5, ready=_searcher)
def _(given: tuple, folder: Path) -> None:
    _answered("POST", "/api/upload", body=given[0], kind=b"image/png", cut=given[1])


PATHS = draw.one_of(
    draw.sampled_from(("/", "/page.css", "/api/about", "/api/gallery", "/api/search", "/photo/" + photo_id("women/01.png"), "/upload/x", "/photo/" + photo_id("../../canary.txt"), "/photo/" + photo_id("/etc/passwd"))),
    draw.builds(lambda a, b: a + b, draw.sampled_from(("/photo/", "/upload/", "/", "/api/", "/page.css/../")), TEXTS),
    draw.builds(lambda s: "/photo/" + photo_id(s.encode("utf-8", "replace").decode()), TEXTS),
)
QUERIES = draw.builds(lambda s, steps: damaged(s, steps), draw.sampled_from((b"size=small", b"size=large", b"offset=0&count=5", b"offset=-1", b"")), STEPS)
HOSTS = draw.one_of(*[draw.just(b"localhost:7860")] * 4, draw.sampled_from((b"", b"evil.example", b"[::1]", b"[", b"localhost.evil", b"LOCALHOST", b"user@localhost", b"\xff", b"localhost:99999999")), draw.builds(lambda s: s.encode("latin-1", "replace"), TEXTS))
MORE = draw.lists(draw.tuples(draw.sampled_from((b"origin", b"content-length", b"content-type", b"transfer-encoding", b"x-forwarded-host", b"cookie", b"range", b"if-none-match")), HOSTS), 2)
METHODS = draw.sampled_from(("GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "X\n"))


@target("page-requests", draw.tuples(METHODS, PATHS, QUERIES, HOSTS, MORE, draw.sampled_from((b"", b"{}", b"[" * 70_000))), 0.7, ready=_searcher)
def _(given: tuple, folder: Path) -> None:
    method, path, query, host, more, body = given
    if method == "HEAD":
        return  # these responses have no body
    _answered(method, path.encode("utf-8", "replace").decode(), query, body, host=host, more=tuple(more))


@target("page-parts", draw.tuples(TEXTS, CHANGES))
def _(given: tuple, folder: Path) -> None:
    text, changes = given
    host_name(text), origin_netloc(text)
    asked = changed(QUESTION, changes)
    asked = {k: v for k, v in (p for p in asked if isinstance(p, list) and len(p) == 2) if isinstance(k, str)} if isinstance(asked, list) else {}
    sentence = build_filter(_plain(asked.get("where")) or {}, read_text({"filter": text}, "filter"))
    if sentence:
        parse_filter(sentence)
    try:
        photo_name(text)
    finally:
        photo_name(photo_id(text.encode("utf-8", "replace").decode()))


def _plain(value):
    return {k: _plain(v) for k, v in value if isinstance(k, str)} if isinstance(value, list) and all(isinstance(p, list) and len(p) == 2 for p in value) else value


# --- the socket --------------------------------------------------------------------------------------------------------

RAW_REQUESTS = (
    b"GET /api/about HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 11\r\nConnection: close\r\n\r\n" + b'{"text": 1}',
    b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET /photo/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: close\r\n\r\n",
)


def _port() -> int:
    if "port" not in _KEPT:
        bound = listen("127.0.0.1", 0)
        server = make_server(create_app(_searcher()))
        threading.Thread(target=lambda: server.run(sockets=[bound]), daemon=True).start()
        _KEPT["port"] = bound.getsockname()[1]
    return _KEPT["port"]


@target("page-socket", draw.builds(damaged, draw.sampled_from(RAW_REQUESTS), STEPS), 0.1, ready=_searcher)
def _(data: bytes, folder: Path) -> None:
    with socket.create_connection(("127.0.0.1", _port()), timeout=30) as line:
        try:
            line.sendall(data)
            line.shutdown(socket.SHUT_WR)
            got = b""
            while part := line.recv(65_536):
                got += part
        except ConnectionError:
            return  # the server closed the connection
    if got and (not got.startswith(b"HTTP/1.1 ") or got[9:10] == b"5"):
        raise BrokenContract("a malformed response", got[:200])
    if b"root:" in got:
        raise BrokenContract("the response holds a file of the machine")
