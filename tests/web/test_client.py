"`ern_search --server`: the answers of the index, from a running page, without importing torch."

import contextlib
import json
import subprocess
import sys
import threading

import pytest
from error_sentence import sentence
from loopback import Loopback, raw, reply
from tiny_index import tiny_searcher

pytest.importorskip("starlette", reason="the search page needs the extra [app]")

import fashionern
from fashionern.search.config import parse_search
from fashionern.search.query import Query, given_queries, results_as_json
from fashionern.web.app import create_app, listen, make_server
from fashionern.web.client import RemoteSearcher, run_remote

HEAVY = {"torch", "open_clip", "pandas", "faiss", "matplotlib", "starlette", "uvicorn"}


@contextlib.contextmanager
def served(searcher, **options):
    "The address of a page over this searcher."
    bound = listen("127.0.0.1", 0)
    server = make_server(create_app(searcher, **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    return tiny_searcher(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def url(searcher):
    with served(searcher) as address:
        yield address


@pytest.fixture
def stranger():
    with contextlib.closing(Loopback()) as server:
        yield server


def ern_search(*arguments) -> subprocess.CompletedProcess:
    "Run the command in its own process, which fails if anything heavy is imported."
    code = f"""import sys
from fashionern.cli.search import main
sys.argv = {["ern_search", *map(str, arguments)]}
try:
    main()
finally:
    assert not {HEAVY} & sys.modules.keys(), {HEAVY} & sys.modules.keys()
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def comparable(answer: dict) -> dict:
    "An answer without paths, which differ between a server and an index, and with rounded scores."
    hits = [{**hit, "path": None, "score": round(hit["score"], 3)} for hit in answer["hits"]]
    return {**answer, "hits": hits}


def test_the_json_is_that_of_the_index_and_nothing_heavy_is_imported(searcher, url, tmp_path):
    photo = searcher.store.get(["women/03.png"])[0].path
    lines = [
        {"image": photo, "text": "is red or maxi", "k": 5},
        {"name": "women/01.png", "text": "is red", "where": "brand = 'O''Neill' and price < 13"},
        {"name": "women/01.png", "keep_reference": True, "k": 1},
        {"text": "a red dress", "where": "price = 99"},
    ]
    file = tmp_path / "q.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    printed = ern_search("--server", url, "--queries", file, "--json")
    assert printed.returncode == 0, printed.stderr
    answers = [json.loads(line) for line in printed.stdout.splitlines()]
    queries = given_queries(parse_search(["--index", "any", "--queries", str(file)]))
    for query, answer, hits in zip(queries, answers, searcher.search_many(queries), strict=True):
        assert comparable(answer) == comparable(results_as_json(query, hits))
        assert all(hit["path"].startswith(f"{url}/photo/") for hit in answer["hits"])
    assert answers[0]["ignored"] == ["I don't know the word 'maxi'."] and answers[1]["hits"]


def test_the_table_and_its_columns(url):
    printed = ern_search("--server", url, "--text", "maxi", "-k", "3", "--labels", "price")
    assert printed.returncode == 0, printed.stderr
    assert "“maxi”" in printed.stdout and "price 1" in printed.stdout and "brand" not in printed.stdout
    assert "I don't know the word 'maxi'" in printed.stdout


def test_a_grid_of_the_pages_photos(url, tmp_path):
    grid = tmp_path / "grid.png"
    cfg = parse_search(["--server", url, "--name", "O'Neill 00 ✓.jpg", "-k", "2", "--grid", str(grid)])
    assert len(run_remote(cfg, given_queries(cfg))[0]) == 2
    assert grid.stat().st_size > 1000


def test_errors_of_the_page_are_passed_on_with_its_address(url):
    for arguments, words in (
        (["--text", "red", "-k", "481"], "'k' must be a whole number from 1 to 480"),
        (["--text", "red", "--where", "color = 'red'"], "Did you mean 'colour'"),
        (["--name", "nobody.png"], "no such photo"),
        (["--name", "women/01.png", "--text", "red", "--text-weight", "0.3"], "has no weight between image and text"),
    ):
        refused = ern_search("--server", url, *arguments)
        assert refused.returncode == 2, refused.stderr
        assert refused.stderr.startswith(f"error: {url} refuses the request: ") and words in refused.stderr
    refused = ern_search("--server", url, "--text", "red", "--labels", "prize")
    assert refused.returncode == 2 and "Did you mean 'price'" in refused.stderr


def test_a_page_that_does_not_answer_to_this_name(searcher):
    with served(searcher, allowed_hosts=["shop.example"]) as address:
        assert "--allowed-hosts" in sentence(RemoteSearcher, address)


def test_no_server_at_the_address():
    with listen("127.0.0.1", 0) as bound:
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
    message = ern_search("--server", address, "--text", "red").stderr
    assert message.startswith(f"error: No search page answers at {address} (Connection refused). ")
    assert "Start it with ern_app" in message


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"<html>a router</html>"),
        reply(b"[1, 2]"),
        reply(b'{"status": "ok"}'),
        reply(b"[" * 100_000),
        reply(b"not here", status=404),
        reply(b"denied", status=403),
    ],
    ids=["html", "a list", "another API", "nested", "no such address", "denied"],
)
def test_a_server_that_is_not_the_page(stranger, answer):
    stranger["/api/about"] = answer
    assert sentence(RemoteSearcher, stranger.url).startswith(f"{stranger.url} is not a search page of fashionern. ")


def test_a_server_that_does_not_speak_http(stranger):
    stranger["/api/about"] = raw(b"\x00\x01\x02\n")
    assert stranger.url in sentence(RemoteSearcher, stranger.url)


@pytest.mark.parametrize("version", ["0.0.1", None])
def test_a_page_of_another_version(stranger, version):
    about = {"size": 1, "answered_by": "sum", "columns": {}} | ({"version": version} if version else {})
    stranger["/api/about"] = reply(json.dumps(about).encode())
    message = sentence(RemoteSearcher, stranger.url)
    assert f"{stranger.url} runs fashionern {version or 'an earlier version'}" in message
    assert f"this is {fashionern.__version__}" in message and "restart ern_app" in message


def test_an_image_that_the_page_would_refuse_is_not_sent(url, tmp_path):
    remote = RemoteSearcher(url)
    large = tmp_path / "large.jpg"
    large.write_bytes(b"x" * (remote.about["limits"]["upload"] + 1))
    message = sentence(remote.search_many, [Query(large)])
    assert str(large) in message and "10 MB" in message and "--index" in message
