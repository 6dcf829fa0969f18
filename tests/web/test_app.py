"The server of the search page: every visitor gets their own answer, and nothing that a visitor sends does harm."

import io
import json
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from urllib.parse import urljoin

import numpy as np
import pytest
from PIL import Image
from tiny_index import tiny_searcher

TestClient = pytest.importorskip(
    "starlette.testclient", reason="the search page needs the extra [app], and its tests httpx"
).TestClient

from starlette.applications import Starlette  # noqa: E402
from starlette.routing import Mount  # noqa: E402

from fashionern.errors import ErnError  # noqa: E402
from fashionern.search.query import Hits, Query  # noqa: E402
from fashionern.search.searcher import Searcher  # noqa: E402
from fashionern.search.stores.folder import FolderStore  # noqa: E402
from fashionern.search.stores.view import only_where  # noqa: E402
from fashionern.web import app, guard  # noqa: E402
from fashionern.web.app import GENERAL_EXAMPLES, MAX_UPLOAD_BYTES, create_app, listen  # noqa: E402
from fashionern.web.config import photo_id  # noqa: E402
from fashionern.web.uploads import Uploads  # noqa: E402


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    return tiny_searcher(tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    "A client of an index of an encoder alone."
    searcher = tiny_searcher(tmp_path_factory.mktemp("untrained"), untrained=True)
    with TestClient(create_app(searcher), base_url="http://localhost:7860") as client:
        yield client


@pytest.fixture(scope="module")
def client(searcher):
    with TestClient(create_app(searcher, ["is red"]), base_url="http://localhost:7860") as client:
        yield client


def error_of(response, status: int) -> str:
    "The error message of a response, which holds nothing else: no traceback and no path."
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"] and "Traceback" not in response.text
    message = response.json()["error"]
    assert "/" not in message.replace("text/", "").replace("application/json", "")
    return message


def image_bytes(kind: str = "PNG", size=(60, 80)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "teal").save(out, kind)
    return out.getvalue()


def names(response) -> list[str]:
    "The names of the results."
    assert response.status_code == 200, response.text
    return [hit["name"] for hit in response.json()["hits"]]


def test_the_page_says_which_model_answers(client, untrained):
    about = client.get("/api/about").json()
    assert about["answered_by"] == "dvr@mask_padding from a model of this test, encoder ern-tiny, regions crops"
    assert about["text_weight"] is None
    about = untrained.get("/api/about").json()
    assert about["answered_by"] == "sum over ern-tiny with random weights, no training, regions grid"
    assert about["text_weight"] == 0.5


def test_each_query_has_its_own_text_weight(client, untrained):
    query = {"name": "women/01.png", "text": "is red", "k": 40}
    weights = [0, 0.3, 0.5, None, 0.9, 1.0] * 4

    def hits(weight):
        response = untrained.post("/api/search", json=query | {"text_weight": weight})
        assert response.status_code == 200, response.text
        return {hit["name"]: hit["score"] for hit in response.json()["hits"]}

    alone = {weight: hits(weight) for weight in set(weights)}
    with ThreadPoolExecutor(len(weights)) as pool:
        together = list(pool.map(hits, weights))
    for weight, found in zip(weights, together):
        assert found == pytest.approx(alone[weight], abs=1e-4)
    assert alone[None] == pytest.approx(alone[0.5], abs=1e-4) and alone[0] != pytest.approx(alone[1.0], abs=1e-2)
    for wrong in (True, "0.5", -0.1, 1.1, [0.5]):
        message = error_of(untrained.post("/api/search", json=query | {"text_weight": wrong}), 400)
        assert message == "'text_weight' must be a number from 0 to 1."
    refused = error_of(client.post("/api/search", json=query | {"text_weight": 0.3}), 400)
    assert "'dvr@mask_padding' has no weight between image and text" in refused


def test_an_explanation_uses_the_text_weight(untrained):
    query = {"name": "women/01.png", "text": "is red", "hit": "women/03.png"}
    for weight, silent in ((0, "text"), (1, "image")):
        why = untrained.post("/api/why", json=query | {"text_weight": weight}).json()
        assert why[silent] == pytest.approx(0, abs=1e-5) and why["crops"] is None and why["result_crops"] is None


def test_a_proxy_can_serve_the_page_below_any_path(searcher):
    below = Starlette(routes=[Mount("/shop/search", create_app(searcher, ["is red"]))])
    address = "http://localhost:7860/shop/search/"
    client = TestClient(below, base_url="http://localhost:7860")
    page = client.get(address).text
    files = re.findall(r'(?:href|src)="([^#"][^"]*)"', page)
    assert {"page.js", "page.css", "icon.svg"} <= set(files)
    photos = [client.get(f"{address}api/gallery").json()["photos"][0]["photo"]]
    photos += [client.post(f"{address}api/search", json={"text": "is red"}).json()["hits"][0]["photo"]]
    photos += [client.post(f"{address}api/upload", content=image_bytes()).json()["photo"]]
    for one in files + photos:
        assert client.get(urljoin(address, one)).status_code == 200, one
    scripted = re.findall(r"""["'`](/(?:api|photo|upload)/)""", client.get(f"{address}page.js").text)
    assert not scripted, "the script also asks relative to the page"


def test_visitors_see_only_what_the_filter_of_the_page_shows(tmp_path):
    searcher = tiny_searcher(tmp_path, products=True)
    names = sorted(searcher.store.marks())
    drafts = names[:6]
    statuses = {name: "draft" if name in drafts else "active" for name in names[:-1]}  # the last has no row
    photos = searcher.store.get(list(statuses))
    searcher.store.set_columns([replace(one, columns=one.columns | {"Status": statuses[one.name]}) for one in photos])
    searcher.store.set_columns([replace(one, columns={}) for one in searcher.store.get(names[-1:])])
    shown = Searcher(searcher.retriever, only_where(searcher.store, "Status = 'active'"))
    with TestClient(create_app(shown), base_url="http://localhost:7860") as client:
        about = client.get("/api/about").json()
        assert about["size"] == 33 and "Status" not in {control["column"] for control in about["controls"]}
        filters = ({}, {"filter": "Status = 'draft'"}, {"order": "name"}, {"filter": "Status is null"})
        tiles = [one for parts in filters for one in client.get("/api/gallery", params=parts).json()["photos"]]
        hits = client.post("/api/search", json={"text": "is red", "k": 40, "group_by": ""}).json()["hits"]
        assert tiles and {one["name"] for one in tiles + hits} <= set(names[6:-1])
        assert {hit["name"] for hit in hits} == set(names[6:-1])
        offered = {one["column"]: dict(one["values"]) for one in about["controls"] if one["values"]}
        assert offered and facets_of(client) == offered
        assert not any(facets_of(client, filter="Status = 'draft'").values())
        for hidden in (drafts[0], names[-1]):
            error_of(client.get(f"/photo/{photo_id(hidden)}"), 404)
            error_of(client.get(f"/api/product/{photo_id(hidden)}"), 404)
            for query in ({"name": hidden}, {"like": [hidden]}, {"text": "is red", "unlike": [hidden]}):
                error_of(client.post("/api/search", json=query), 404)
            error_of(client.post("/api/why", json={"text": "is red", "hit": hidden}), 404)


def test_about_and_page(client):
    about = client.get("/api/about").json()
    assert (about["size"], about["model"], about["examples"]) == (40, "dvr@mask_padding", [{"text": "is red"}])
    assert about["columns"] == ["brand", "colour", "length", "price"] and about["orders"] == ["name", "price"]
    assert about["dates"] == [] and about["scores"] is False
    controls = {control["column"]: control for control in about["controls"]}
    assert controls["brand"]["values"] == [["O'Neill", 20], ["Été & fils", 20]]
    assert (controls["price"]["kind"], controls["price"]["low"], controls["price"]["high"]) == ("range", 10, 14)
    kinds = {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript", "/icon.svg": "image/svg+xml"}
    for path, kind in kinds.items():
        response = client.get(path)
        assert response.headers["content-type"].startswith(kind) and response.text
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in response.headers
    assert "http" not in client.get("/page.css").text
    assert "innerHTML" not in client.get("/page.js").text
    assert " style=" not in client.get("/").text


def test_the_page_offers_what_was_measured(searcher):
    assert searcher.store.examples() is None, "this index was built without measuring"
    general = [{"text": text} for text in GENERAL_EXAMPLES]
    measured = [
        {"text": "in blue", "name": "women/01.png", "share": 0.875, "chance": 0.1},
        {"text": "is maxi", "name": "women/gone.png", "share": 0.5, "chance": 0.3},
    ]
    photo = {"name": "women/01.png", "photo": f"photo/{photo_id('women/01.png')}"}
    shown = [{"text": "in blue", "share": 0.875} | photo, {"text": "is maxi", "share": 0.5}]
    for stored, texts, expected in (
        (None, (), general),
        (measured, (), shown),
        (measured, ("is red",), [{"text": "is red"}]),  # --examples
        ([], (), []),  # nothing works, so nothing is offered
    ):
        searcher.store.set_examples(stored)
        with TestClient(create_app(searcher, texts), base_url="http://localhost") as client:
            assert client.get("/api/about").json()["examples"] == expected
    searcher.store.set_examples(None)


def test_labels_of_the_cards(searcher):
    with TestClient(create_app(searcher, labels=["price", "brand"]), base_url="http://localhost") as client:
        assert client.get("/api/about").json()["labels"] == ["price", "brand"]
    with pytest.raises(ErnError, match="no column of the index named 'prize'. Did you mean 'price'"):
        create_app(searcher, labels=["prize"])


def test_gallery_and_photos(client):
    first, second = (client.get(f"/api/gallery?offset={at}&count=20").json()["photos"] for at in (0, 20))
    assert len({photo["name"] for photo in first + second}) == 40
    for size in ("small", "large"):
        response = client.get(first[0]["photo"], params={"size": size})
        photo = Image.open(io.BytesIO(response.content))
        assert response.headers["content-type"] == "image/jpeg"
        assert (photo.format, max(photo.size)) == ("JPEG", 96)
        assert "max-age" in response.headers["cache-control"]
    for wrong in ("offset=x", "offset=-1", "count=0", "count=9999", "order=prize", "where=[]", "filter=price"):
        error_of(client.get(f"/api/gallery?{wrong}"), 400)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "women/../women/01.png", "nothing.png", "x" * 500])
def test_no_path_is_served(client, path):
    error_of(client.get(f"/photo/{photo_id(path)}"), 404)
    error_of(client.get(f"/photo/{path.replace('/', '%2f')}"), 404)
    for root in ("/", "/photo/", "/upload/", "/page/"):
        assert client.get(f"{root}{path}").status_code == 404 or root + path == "/"
    error_of(client.post("/api/search", json={"name": path}), 404)
    error_of(client.post("/api/why", json={"text": "red", "hit": path}), 404)


def test_search_by_photo_and_text(client, searcher):
    name = "women/01.png"
    hits = client.post("/api/search", json={"name": name, "text": "is red", "k": 5}).json()["hits"]
    expected = searcher.search_many([Query(name=name, text="is red", k=5)])[0]
    assert [hit["name"] for hit in hits] == [hit.name for hit in expected]
    assert all(set(hit) == {"name", "photo", "score", "columns", "price"} for hit in hits), "no path leaves the server"
    assert name not in names(client.post("/api/search", json={"name": name}))
    kept = client.post("/api/search", json={"name": name, "keep_reference": True})
    score = {hit["name"]: hit["score"] for hit in kept.json()["hits"]}
    assert score[name] == pytest.approx(max(score.values()), abs=1e-6), "garments that look alike may tie"
    assert names(client.post("/api/search", json={"text": "a red dress", "k": 3}))


def test_search_with_filters(client):
    def search(**body):
        return client.post("/api/search", json={"text": "red", "k": 40, **body})

    quoted = names(search(where={"brand": "O'Neill"}))
    assert len(quoted) == 20 and all(name.startswith("O'Neill") for name in quoted)
    both = search(where={"brand": ["O'Neill"], "price": 12}, filter="price > 99 or price < 13").json()["hits"]
    assert both and all(hit["columns"]["price"] == 12 for hit in both)
    assert names(search(where={"brand": "x' or 'a' = 'a"})) == []
    ways = ({"where": "price = 12"}, {"filter": "price = 12"}, {"where": {"price": 12}})
    same = [names(search(**way)) for way in ways]
    assert same[0] and same[0] == same[1] == same[2]
    assert names(search(where="price < 13", filter="price > 13")) == []


def test_the_gallery_is_filtered_and_sorted(client):
    def gallery(**parts):
        found = client.get("/api/gallery", params={"count": 40, **parts}).json()
        return found["total"], [photo["columns"]["price"] for photo in found["photos"]]

    total, prices = gallery(where=json.dumps({"price": {"max": 11}, "brand": ["O'Neill"]}), order="price")
    assert total == len(prices) == 8 and prices == [10] * 4 + [11] * 4
    assert gallery(filter="price = 12", order="price", descending=1) == (8, [12] * 8)
    assert gallery(filter="price = 99") == (0, [])


def facets_of(client, **query) -> dict[str, dict]:
    response = client.post("/api/facets", json=query)
    assert response.status_code == 200, response.text
    return {column: dict(values) for column, values in response.json()["facets"].items()}


@pytest.mark.parametrize(
    "where", [{}, {"price": {"max": 12}}, {"brand": ["O'Neill"]}, {"brand": ["O'Neill"], "colour": ["red", "blue"]}]
)
def test_the_number_of_a_value_is_what_choosing_it_alone_would_show(client, where):
    values = {control["column"]: control["values"] for control in client.get("/api/about").json()["controls"]}
    facets = facets_of(client, where=where, filter="price > 10")
    assert facets.keys() == {column for column, offered in values.items() if offered}
    for column, counts in facets.items():
        for value, _ in values[column]:
            chosen = json.dumps(where | {column: [value]})
            found = client.get("/api/gallery", params={"where": chosen, "filter": "price > 10"}).json()
            assert counts.get(value, 0) == found["total"], (column, value)


def test_what_is_no_result_is_not_counted(client, searcher, shop):
    where = {"brand": ["Été & fils"]}
    for more in ({}, {"unlike": ["women/03.png"]}, {"keep_reference": True}):
        query = {"name": "women/01.png", "where": where, "k": 480} | more
        hits = client.post("/api/search", json=query).json()["hits"]
        found = Counter(hit["columns"]["colour"] for hit in hits)
        assert facets_of(client, **query)["colour"] == found
    products, of_shop = shop
    name = sorted(of_shop.store.marks())[0]
    for query in ({"name": name}, {"text": "a dress", "unlike": [name]}):
        hits = products.post("/api/search", json=query | {"k": 480}).json()["hits"]
        sizes = Counter(size for hit in hits for size in hit["columns"]["Size"].split(" | "))
        assert facets_of(products, **query)["Size"] == sizes
    data = Path(searcher.store.get(["women/01.png"])[0].path).read_bytes()
    upload = client.post("/api/upload", content=data).json()["upload"]
    assert sum(facets_of(client, upload=upload)["brand"].values()) == 39, "a copy of the photo is no result"


def test_wrong_requests_for_facets(client):
    assert "no column" in error_of(client.post("/api/facets", json={"where": {"prize": ["a"]}}), 400)
    assert "'where'" in error_of(client.post("/api/facets", json={"where": [1]}), 400)
    assert "no such photo" in error_of(client.post("/api/facets", json={"name": "gone.png"}), 404)
    error_of(client.post("/api/facets", json={"filter": "price <"}), 400)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    "A client of the page of a shop, and its searcher: 6 products with two photos each."
    searcher = tiny_searcher(tmp_path_factory.mktemp("shop"), count=12, products=True)
    with TestClient(create_app(searcher, ["is red"]), base_url="http://localhost:7860") as client:
        yield client, searcher


def test_results_are_products(shop):
    client, searcher = shop
    hits = client.post("/api/search", json={"text": "a dress", "k": 12}).json()["hits"]
    assert sorted(hit["product"] for hit in hits) == [f"dress-{i}" for i in range(6)]
    assert {hit["title"]: (hit["price"], hit["link"]) for hit in hits}["Dress 02"] == (
        "22 €",
        "https://shop.example/products/dress-2",
    )
    photos = client.post("/api/search", json={"text": "a dress", "k": 12, "group_by": ""}).json()["hits"]
    assert len(photos) == 12 and [hit["name"] for hit in photos if hit["name"] == hits[0]["name"]]
    best = {}
    for photo in photos:
        best.setdefault(photo["columns"]["Handle"], photo["name"])
    assert [hit["name"] for hit in hits] == list(best.values()), "each product by its best photo"
    first = client.get(hits[0]["photo"].replace("photo/", "/api/product/")).json()["photos"]
    assert len(first) == 2 and {photo["product"] for photo in first} == {hits[0]["product"]}
    assert first[0]["name"] == hits[0]["name"] and "score" not in first[0]
    gallery = client.get("/api/gallery", params={"count": 96}).json()
    assert gallery["total"] == 6 and len({photo["product"] for photo in gallery["photos"]}) == 6
    error_of(client.get(f"/api/product/{photo_id('nowhere.jpg')}"), 404)


def test_lists_judged_results_and_several_references(shop):
    client, searcher = shop
    found = client.post("/api/search", json={"text": "a dress", "where": {"Size": ["S", "XL"]}}).json()["hits"]
    assert {hit["columns"]["Size"] for hit in found} == {"S | M", "XL"}
    query = {"text": "a dress", "group_by": "", "k": 12}
    hits = client.post("/api/search", json=query).json()["hits"]
    last = hits[-1]["name"]
    moved = client.post("/api/search", json=query | {"like": [last], "unlike": [hits[0]["name"]]})
    assert names(moved).index(last) < 11 and hits[0]["name"] not in names(moved)
    both = Query(name=last, names=(hits[0]["name"],), k=12, group_by="")
    references = [{"name": hits[0]["name"]}]
    response = client.post("/api/search", json={"name": last, "references": references, "k": 12, "group_by": ""})
    assert names(response) == [hit.name for hit in searcher.search_many([both])[0]]
    for wrong in ({"like": ["nowhere.jpg"]}, {"references": [{"name": "nowhere.jpg"}]}):
        error_of(client.post("/api/search", json=query | wrong), 404)
    for wrong in ({"box": [0, 0, 2, 1]}, {"like": 3}, {"references": [{"name": last}] * 8}):
        error_of(client.post("/api/search", json={"name": last} | wrong), 400)


def test_an_upload_leaves_out_its_own_photo(client, searcher):
    data = Path(searcher.store.get(["women/03.png"])[0].path).read_bytes()
    upload = client.post("/api/upload", content=data).json()
    size = Image.open(io.BytesIO(client.get(upload["photo"]).content)).size
    assert size == (upload["width"], upload["height"]) == (96, 96)
    by_upload = client.post("/api/search", json={"upload": upload["upload"], "text": "is red", "k": 40})
    by_name = client.post("/api/search", json={"name": "women/03.png", "text": "is red", "k": 40})
    assert names(by_upload) == names(by_name), "the same file in the index is left out"
    error_of(client.post("/api/search", json={"upload": "never-was"}), 404)
    error_of(client.get("/upload/never-was"), 404)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    "A chunk of a PNG file, with its length and checksum."
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_size(width: int, height: int) -> bytes:
    "A PNG whose header declares this size and which has no pixels."
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_uploads_that_are_refused(client):
    truncated = image_bytes("JPEG", (900, 900))[:400]
    for data in (b"", b"hello", b"<svg onload=alert(1)>", truncated, image_bytes("PPM")):
        assert "not a readable image" in error_of(client.post("/api/upload", content=data), 400)
    for size in (10_000, 60_000, 2**31 - 1):
        assert "million" in error_of(client.post("/api/upload", content=png_of_size(size, size)), 400)
    assert "10 MB" in error_of(client.post("/api/upload", content=b"x" * (MAX_UPLOAD_BYTES + 1)), 413)
    stream = (b"x" * 1_000_000 for _ in range(30))
    assert "10 MB" in error_of(client.post("/api/upload", content=stream), 413), "no length declared"


def test_a_number_of_any_length_is_refused_or_finds_nothing(client):
    query = {"name": "women/01.png", "k": 2}
    for digits in (400, 401, 4_000):
        for where in ({"price": 10**digits}, {"price": [1, -(10**digits)]}):
            assert "number" in error_of(client.post("/api/search", json={**query, "where": where}), 400)
        assert "text_weight" in error_of(client.post("/api/search", json={**query, "text_weight": 10**digits}), 400)
        assert "box" in error_of(client.post("/api/search", json={**query, "box": [0, 0, 1, 10**digits]}), 400)
        assert error_of(client.post("/api/search", json={**query, "where": f"price = {'9' * digits}"}), 400)
    assert names(client.post("/api/search", json={**query, "where": {"price": 10**299}})) == []


def test_an_index_that_is_gone_is_status_503(searcher, tmp_path, caplog):
    store = FolderStore.create(tmp_path / "index", searcher.store.about)
    marks = searcher.store.marks()
    vectors = np.eye(len(marks), store.about["dim"], dtype=np.float32)
    store.put(searcher.store.get(list(marks)), vectors)
    with TestClient(create_app(Searcher(searcher.retriever, store)), base_url="http://localhost:7860") as client:
        query = {"name": "women/01.png", "text": "is red", "k": 2}
        requests = {
            "search": lambda: client.post("/api/search", json=query),
            "gallery": lambda: client.get("/api/gallery"),
            "filtered gallery": lambda: client.get("/api/gallery?filter=price > 1"),
            "facets": lambda: client.post("/api/facets", json={"filter": "price > 1"}),
            "product": lambda: client.get(f"/api/product/{photo_id('women/03.png')}"),
            "photo": lambda: client.get(f"/photo/{photo_id('women/05.png')}"),
        }
        assert names(requests["search"]())
        shutil.rmtree(tmp_path / "index")
        for rebuilt in (False, True):
            if rebuilt:
                FolderStore.create(tmp_path / "index", store.about).close()
            for request in requests.values():
                assert "deleted or rebuilt" in error_of(request(), 503)
    assert str(tmp_path / "index") in caplog.text  # the path is in the log alone


@pytest.fixture
def address(searcher, monkeypatch):
    "Host and port of a server with short limits."
    monkeypatch.setattr(app, "MAX_HEADER_SECONDS", 0.5)
    monkeypatch.setattr(guard, "MAX_IDLE_SECONDS", 0.5)
    monkeypatch.setattr(guard, "MAX_BODY_SECONDS", 1.5)
    bound = listen("127.0.0.1", 0)
    server = app.make_server(create_app(searcher))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    yield bound.getsockname()
    server.should_exit = True
    thread.join(30)


def test_half_sent_requests_are_closed(address):
    head = b"POST /api/upload HTTP/1.1\r\nHost: localhost\r\n"
    answered = b"GET /api/about HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for sent in (b"", b"GET", head, head + b"Content-Length: 9000\r\n\r\n1234", answered + head):
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(sent)
            received = b""
            while part := connection.recv(65_536):  # until the server closes; else the timeout fails the test
                received += part
        assert b" 408 " in received or b"Content-Length" not in sent
    with socket.create_connection(address, timeout=20) as connection:  # a byte at a time
        connection.sendall(head + b"Content-Length: 9000\r\n\r\n")
        for _ in range(100):
            try:
                connection.sendall(b"x")
            except OSError:
                break
            time.sleep(0.1)
        else:
            raise AssertionError("the server accepts a body for ever")


def test_many_uploads_take_little_memory_and_push_out_only_ones_own(client, monkeypatch):
    noise = io.BytesIO()
    Image.effect_noise((700, 700), 60).convert("RGB").save(noise, "PNG")
    uploads = next(route.endpoint.__self__ for route in client.app.routes if route.path == "/api/upload").uploads
    monkeypatch.setattr(uploads, "max_client_bytes", 3_000_000)
    first = uploads.add(Image.new("RGB", (9, 9)), 1, "another visitor")
    for _ in range(8):
        assert client.post("/api/upload", content=noise.getvalue()).status_code == 200
    sizes = [len(data) for owner, data, _ in uploads._items.values() if owner != "another visitor"]
    assert 8 * max(sizes) > 3_000_000 > sum(sizes) and uploads.get(first)


def test_the_uploads_of_many_visitors_take_little_memory():
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    uploads = Uploads(max_bytes=40_000)
    keys = [uploads.add(noise, n, f"visitor {n}") for n in range(9)]
    kept = [key for key in keys if uploads.get(key)]
    assert 0 < len(kept) < 9 and kept == keys[-len(kept) :]
    assert sum(len(data) for _, data, _ in uploads._items.values()) <= 40_000


def test_visitors_behind_a_proxy_on_this_machine_are_told_apart(searcher):
    hosts = ("shop.example",)
    headers = {"host": "shop.example", "origin": "https://shop.example"}
    for peer, owners in (("127.0.0.1", {"203.0.113.7", "203.0.113.8"}), ("192.0.2.1", {"192.0.2.1"})):
        client = TestClient(create_app(searcher, allowed_hosts=hosts), "http://shop.example", client=(peer, 5000))
        endpoints = next(route.endpoint.__self__ for route in client.app.routes if route.path == "/api/upload")
        for visitor in ("203.0.113.7", "198.51.100.1, 203.0.113.8"):  # the proxy adds the last address
            given = headers | {"x-forwarded-for": visitor}
            assert client.post("/api/upload", content=image_bytes(), headers=given).status_code == 200
        assert {owner for owner, _, _ in endpoints.uploads._items.values()} == owners


@pytest.mark.parametrize(
    "text",
    ["أطول وأغمق", "更长的袖子", "длиннее", "🧵👗", "e\u0301\u200b\u202e", "<b>'\";--\\", "\x00\x07", "x" * 2000],
)
def test_text_of_any_script(client, text):
    assert names(client.post("/api/search", json={"name": "women/01.png", "text": text, "k": 2}))


def test_a_lone_surrogate_is_replaced(client):
    body = b'{"name": "women/01.png", "text": "\\ud800 is red", "where": {"brand": "\\udfff"}}'
    assert names(client.post("/api/search", content=body, headers={"content-type": "application/json"})) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": "  "},
        {"text": "x" * 2001},
        {"text": 5},
        {"name": ["a"]},
        {"name": "women/01.png", "upload": "x"},
        {"text": "a", "k": 0},
        {"text": "a", "k": 481},
        {"text": "a", "k": True},
        {"text": "a", "k": "5"},
        {"text": "a", "keep_reference": 1},
        {"text": "a", "where": ["x"]},
        {"text": "a", "where": {"colour": {"$ne": 1}}},
        {"text": "a", "where": {"colour": []}},
        {"text": "a", "where": {"no such column": 1}},
        {"text": "a", "where": "x" * 60_000},
        {"text": "a", "filter": "price <"},
        {"text": "a", "filter": "price < 1) or (price > 0", "where": {"price": 10}},
        {"text": "a", "where": "price < 1) or (price > 0", "filter": "price > 0"},
    ],
)
def test_queries_that_are_refused(client, body):
    error_of(client.post("/api/search", json=body), 400)


def test_bodies_that_are_not_a_json_object(client):
    def send(body, kind="application/json"):
        return client.post("/api/search", content=body, headers={"content-type": kind})

    for body in (b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 60_000, b'{"text": NaN}'):
        error_of(send(body), 400)
    error_of(send(b'{"text": "' + b"x" * 70_000 + b'"}'), 413)
    error_of(send(b'{"text": "red"}', "text/plain"), 415)
    error_of(client.get("/api/search"), 405)
    error_of(client.get("/no/such"), 404)


def test_explanation_adds_up_to_the_score(client):
    query = {"name": "women/01.png", "text": "is red"}
    why = client.post("/api/why", json={**query, "hit": "women/03.png"}).json()
    assert abs(why["base"] + why["image"] + why["text"] - why["score"]) < 1e-5
    assert [word for word, _ in why["words"]] == ["is", "red"]
    assert len(why["crops"]) == len(why["result_crops"]) == 13
    hits = client.post("/api/search", json={**query, "k": 40}).json()["hits"]
    score = next(hit["score"] for hit in hits if hit["name"] == "women/03.png")
    assert abs(score - why["score"]) < 1e-3


def test_hosts_and_origins(client, searcher):
    for host in ("127.0.0.1:7860", "[::1]:7860", "localhost"):
        assert client.get("/api/about", headers={"host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example:7860", "", "127.0.0.1@evil.example"):
        error_of(client.get("/", headers={"host": host}), 421)
    for origin in ("http://evil.example", "null", "http://localhost:9999"):
        error_of(client.post("/api/upload", content=image_bytes(), headers={"origin": origin}), 403)
    same = client.post("/api/upload", content=image_bytes(), headers={"origin": "http://localhost:7860"})
    assert same.status_code == 200
    anywhere = TestClient(create_app(searcher, allowed_hosts=["*"]), base_url="http://shop.example")
    assert anywhere.get("/api/about").status_code == 200


def test_32_queries_at_once_get_their_own_answers(client):
    queries = []
    for i in range(1, 17, 2):
        for word in ("red", "blue", "long", "green"):
            query = {"name": f"women/{i:02}.png", "text": f"is {word}", "k": 4, "keep_reference": i % 4 == 1}
            queries.append(query)
    queries[7] = {"text": "red", "where": {"no such column": 1}}
    alone = [client.post("/api/search", json=query) for query in queries]
    ready = threading.Barrier(len(queries))

    def search(query):
        ready.wait()
        return client.post("/api/search", json=query)

    with ThreadPoolExecutor(len(queries)) as pool:
        together = list(pool.map(search, queries))
    assert [response.status_code for response in together] == [400 if i == 7 else 200 for i in range(32)]
    for one, other in zip(alone, together):
        if one.status_code == 200:
            a = scores(one)
            b = scores(other)
            assert sorted(a.values()) == pytest.approx(sorted(b.values()), abs=1e-5)
            assert len(a.keys() & b.keys()) >= 3


def scores(response) -> dict[str, float]:
    return {hit["name"]: hit["score"] for hit in response.json()["hits"]}


def test_a_batch_is_one_call_and_a_full_queue_refuses(searcher, monkeypatch):
    sizes = []
    go = threading.Event()

    def search_many(self, queries):
        sizes.append(len(queries))
        go.wait(20)
        return [Hits() for _ in queries]

    monkeypatch.setattr(type(searcher), "search_many", search_many)
    app = create_app(searcher)
    with TestClient(app, base_url="http://localhost") as client, ThreadPoolExecutor(320) as pool:
        requests = [pool.submit(client.post, "/api/search", json={"text": "red"}) for _ in range(320)]
        first = wait(requests, 20, FIRST_COMPLETED).done
        assert "Try again" in error_of(first.pop().result(), 503), "refused while the others wait"
        go.set()
        responses = [request.result() for request in requests]
    assert {response.status_code for response in responses} == {200, 503}
    assert max(sizes) == 32


def test_what_of_a_text_is_ignored(client, untrained):
    def ignored(server, **query):
        return server.post("/api/search", json=query).json()["ignored"]

    photo = "women/01.png"
    assert ignored(client, name=photo, text="is red or dotted") == ignored(client, name=photo) == []
    assert ignored(client, name=photo, text="red maxi") == ["I don't know the word 'maxi'."]
    assert ignored(client, name=photo, text="maxi") == [
        "I don't know the word 'maxi', so the results follow the photo alone."
    ]
    assert ignored(client, text="maxi") == ["I don't know the word 'maxi', so the results are arbitrary."]
    assert ignored(client, name=photo, text="red " * 30) == [
        'The text is too long: everything after "… red red red" is ignored.'
    ]
    assert ignored(untrained, name=photo, text="maxi") == [], "no training, so no words are recorded"


def test_an_unexpected_error_is_logged_and_not_shown(searcher, monkeypatch, caplog):
    monkeypatch.setattr(type(searcher), "search_many", lambda self, queries: 1 / 0)
    with TestClient(create_app(searcher), base_url="http://localhost") as client:
        assert "log" in error_of(client.post("/api/search", json={"text": "red"}), 500)
        assert client.get("/api/about").status_code == 200
    assert "ZeroDivisionError" in caplog.text


def test_a_photo_whose_file_is_missing(tmp_path):
    searcher = tiny_searcher(tmp_path, 6, 48)
    (tmp_path / "photos" / "women" / "01.png").unlink()
    with TestClient(create_app(searcher), base_url="http://localhost") as client:
        assert "women" in client.get(f"/photo/{photo_id('women/01.png')}").json()["error"]
        response = client.post("/api/search", json={"name": "women/01.png"})
        assert response.status_code == 400 and str(tmp_path) not in response.text


def test_a_port_in_use():
    with listen("127.0.0.1", 0) as bound, pytest.raises(ErnError, match="--port"):
        listen("127.0.0.1", bound.getsockname()[1])


def test_without_the_extra():
    code = """
import sys

sys.modules["starlette"] = None
from fashionern.errors import exit_on_error

with exit_on_error():
    import fashionern.web.guard
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "pip install 'fashionern[app]'" in ended.stderr and "make app" in ended.stderr
    assert json.dumps(ended.stderr).count("error:") == 1
