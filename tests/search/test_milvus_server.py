"A Milvus server is killed, restarted, protected or emptied under its clients: nothing that was stored is lost."

import shutil
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import milvus_server
import numpy as np
import pytest
from error_sentence import sentence
from test_stores import ABOUT, DIM, assert_same, clustered, nearest, random_photos

from fashionern.search.stores.base import Photo, StoreUnavailableError

pytest.importorskip("pymilvus")
pytestmark = pytest.mark.skipif(not milvus_server.is_installed(), reason="no Milvus server: make test-milvus")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "A server that a test may kill, if it starts it again."
    with milvus_server.MilvusServer(tmp_path_factory.mktemp("milvus")) as running:
        yield running


@pytest.fixture
def place(server) -> str:
    "The address of an index that does not exist yet."
    return f"{server.address}#test_{uuid.uuid4().hex}"


def stores():
    from fashionern.search.stores.milvus import MilvusStore

    return MilvusStore


def restart(server: milvus_server.MilvusServer) -> None:
    server.kill()
    server.start()


def test_a_build_continues_when_the_server_is_killed_and_restarted(server, place):
    vectors = clustered(6_000)
    photos = [Photo(f"{i}.jpg", "/p", (i, 0, 0), {"i": i}) for i in range(6_000)]
    store = stores().create(place, {**ABOUT, "kind": "hnsw"})
    some = threading.Event()

    def build() -> None:
        for at in range(0, 6_000, 500):
            store.put(photos[at : at + 500], vectors[at : at + 500])
            if at == 1_500:
                some.set()

    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(build)
        assert some.wait(300)
        restart(server)
        building.result()
    facts = store.refresh()
    assert facts["photos"] == len(store) == 6_000 and facts["recall@10"] >= 0.97
    assert store.marks() == {p.name: p.mark for p in photos}
    store.close()


def test_what_was_put_before_a_kill_is_there_and_the_build_can_be_repeated(server, place):
    photos, vectors = random_photos(300)
    store = stores().create(place, ABOUT)
    store.put(photos[:200], vectors[:200])
    restart(server)  # nothing was flushed
    again = stores().open(place)
    assert again.marks() == {p.name: p.mark for p in photos[:200]}
    again.put(photos, vectors)  # as a second build would
    assert len(again) == 300
    for query, found in zip(vectors[:20], again.find(vectors[:20], 9)):
        assert_same(found, nearest(photos, vectors, query, 9))
    again.close()
    store.close()


def test_a_server_that_is_down_is_unavailable_and_a_store_survives_it(server, place, monkeypatch):
    from fashionern.search.stores import milvus

    photos, vectors = random_photos(50)
    store = stores().create(place, ABOUT)
    store.put(photos, vectors)
    store.flush()
    server.kill()
    monkeypatch.setattr(milvus, "TIMEOUT_SECONDS", 3)
    monkeypatch.setattr(milvus, "_RESTART_SECONDS", 3)
    for act in (lambda: store.find(vectors[:1], 3), lambda: store.put(photos, vectors), lambda: stores().open(place)):
        with pytest.raises(StoreUnavailableError, match="server is running"):
            act()
    server.start()
    monkeypatch.setattr(milvus, "TIMEOUT_SECONDS", 60)
    stores().open(place).close()  # waits until the server has loaded the index again
    assert_same(store.find(vectors[:1], 3)[0], nearest(photos, vectors, vectors[0], 3))
    store.close()


def test_an_index_that_was_dropped_and_rebuilt_is_noticed(place):
    photos, vectors = random_photos(5)
    store = stores().create(place, ABOUT)
    store.put(photos, vectors)
    other = stores().open(place)
    other.client.drop_collection(place.partition("#")[2])
    actions = (
        lambda: store.find(vectors[:1], 1),
        lambda: store.put(photos, vectors),
        lambda: store.remove([photos[0].name]),
        store.refresh,
        store.marks,
    )
    for act in actions:
        with pytest.raises(StoreUnavailableError, match="deleted or rebuilt"):
            act()
    rebuilt = stores().create(place, ABOUT)
    for act in actions:
        with pytest.raises(StoreUnavailableError, match="deleted or rebuilt"):
            act()
    assert len(rebuilt) == 0, "nothing was written into the new index"
    for each in (store, other, rebuilt):
        each.close()


SEARCHER = """
import sys
import numpy as np
from fashionern.search.stores.milvus import MilvusStore
place, count = sys.argv[1], int(sys.argv[2])
store = MilvusStore.open(place)
queries = np.eye(store.about["dim"], dtype=np.float32)
expected = [{name for name, _ in hits} for hits in store.find(queries, count)]
print("ready", flush=True)
turns = 0
while not sys.stdin.closed and turns < 10_000:
    found = store.find(queries, count)
    for hits, names in zip(found, expected):
        assert len(hits) == count and {name for name, _ in hits} == names, (len(hits), names ^ {n for n, _ in hits})
        assert all(0.9 < score <= 1.001 for _, score in hits), hits
    turns += 1
    print(turns, flush=True)
"""


def test_two_searchers_see_whole_results_while_photos_are_updated_added_and_removed(place):
    stable = []
    vectors = []
    for i in range(20 * DIM):  # the same vector stays, and its columns change
        stable.append(Photo(f"stable/{i}.jpg", "/p", (0, 0, 0), {"turn": 0}))
        near = np.eye(DIM)[i % DIM] + 0.02 * np.random.default_rng(i).standard_normal(DIM)
        vectors.append(near / np.linalg.norm(near))
    held = np.array(vectors, dtype=np.float32)
    store = stores().create(place, ABOUT)
    store.put(stable, held)
    paths = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", SEARCHER, place, "20"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    searchers = [subprocess.Popen(command, env={**milvus_server.os.environ, **paths}, **pipes) for _ in range(2)]
    try:
        assert [s.stdout.readline() for s in searchers] == ["ready\n"] * 2
        far = -np.ones((DIM, DIM), dtype=np.float32) / np.sqrt(DIM)
        for turn in range(1, 6):
            store.put([replace(p, columns={"turn": turn}) for p in stable], held)
            store.put([Photo(f"{turn}/{i}.jpg", "/p") for i in range(DIM)], far)
            store.remove([f"{turn - 1}/{i}.jpg" for i in range(DIM)])
            store.refresh()
        counts = [int(s.stdout.readline()) for s in searchers]
    finally:
        for s in searchers:
            s.kill()
        errors = [s.communicate()[1] for s in searchers]
    assert errors == ["", ""] and min(counts) > 0
    assert len(store) == len(stable) + DIM
    store.close()


@pytest.fixture
def protected(tmp_path_factory):
    "A server with a password and TLS, and its certificate."
    if not (openssl := shutil.which("openssl")):
        pytest.skip("openssl, which makes certificates, is not installed")
    folder = tmp_path_factory.mktemp("protected")
    files = {name: folder / f"{name}.pem" for name in ("key", "certificate")}
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", names, "-keyout", str(files["key"]), "-out", str(files["certificate"])]
    subprocess.run(command, check=True, capture_output=True)
    settings = {
        "authorization_enabled": True,
        "tls_mode": 1,
        "server_pem_path": str(files["certificate"]),
        "server_key_path": str(files["key"]),
    }
    with milvus_server.MilvusServer(folder / "data", **settings) as running:
        yield running, files["certificate"]


PROTECTED = """
import sys
from test_stores import ABOUT, random_photos
from fashionern.errors import ErnError
from fashionern.search.config import index_location
from fashionern.search.inventory import store_class
place, token = sys.argv[1:]
try:
    where = index_location(None, place, token=token or None)
    store = store_class(where).create(where, ABOUT)
    store.put(*random_photos(9))
    print(len(store), token in str(where) + repr(where))
except ErnError as e:
    print(type(e).__name__, e)
"""


def test_a_token_and_tls_are_passed_to_the_server(protected):
    server, certificate = protected
    folders = [str(Path(__file__).resolve().parents[up]) for up in range(3)]

    def run(token: str, **environment: str) -> str:
        place = f"{server.address}#test_{uuid.uuid4().hex}"
        environment = {**milvus_server.os.environ, "PYTHONPATH": milvus_server.os.pathsep.join(folders), **environment}
        command = [sys.executable, "-c", PROTECTED, place, token]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    trusted = {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(certificate)}
    assert run("root:Milvus", **trusted) == "9 False"
    assert run("", MILVUS_TOKEN="root:Milvus", **trusted) == "9 True"  # no token is in every text
    assert "the token" in run("root:wrong", **trusted)
    assert "server is running" in run("root:Milvus")  # a certificate that nobody vouches for


def test_an_address_without_a_server_is_reported_in_seconds():
    assert "server is running" in sentence(stores().open, "http://127.0.0.1:9")
