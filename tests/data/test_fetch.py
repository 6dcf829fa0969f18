"Downloads from a real server that misbehaves in every known way."

import gzip
import io
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest
from loopback import Loopback, endless, picture, raw, reply, silence
from PIL import Image

from fashionern.data.download import image_urls
from fashionern.data.download.fetch import Fetcher, FetchError, FetchPolicy, fetch_file
from fashionern.data.download.image_urls import fetch_images, image_suffix, read_url_list
from fashionern.errors import ErnError
from fashionern.files import write_atomic

QUICK = FetchPolicy(tries=3, backoff=0.01, timeout=3, max_refusals=50)


@pytest.fixture
def server():
    loopback = Loopback()
    yield loopback
    loopback.close()


def reason(server: Loopback, path: str, max_bytes: int = 100_000, types=None, **limits) -> str:
    "The reason of the error for a path."
    with pytest.raises(FetchError) as caught:
        Fetcher(replace(QUICK, **limits)).get(server.url + path, max_bytes, types)
    return caught.value.reason


def images(server: Loopback, names, folder: Path, **options):
    "Download `NAME.jpg` from the server for each name."
    options = {"policy": QUICK, "progress": False} | options
    urls = {name: f"{server.url}/{name}.jpg" for name in names}
    return fetch_images(urls, folder / "images", folder / "gone.jsonl", **options)


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "images").iterdir())


# one file


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_temporary_errors_are_retried(server, status):
    server["/a"] = [reply(status=status), reply(b"no", status), reply(b"yes")]
    assert Fetcher(QUICK).get(f"{server.url}/a", 100) == b"yes" and server.count() == {"/a": 3}
    server["/b"] = reply(status=status)
    assert reason(server, "/b") == f"status {status}" and server.count()["/b"] == 3


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 404, 410, 418, 451, 505])
def test_permanent_errors_are_not_retried(server, status):
    server["/a"] = reply(status=status)
    assert reason(server, "/a") == f"status {status}" and server.count() == {"/a": 1}


def test_the_request_names_the_program_and_nothing_private(server):
    server["/a"] = reply(b"yes")
    Fetcher(QUICK).get(f"{server.url}/a", 100)
    headers = server.asked[0].headers
    agent = headers["User-Agent"]
    assert agent.startswith("fashionern/") and "dataset" in agent and "@" not in agent
    assert headers["Accept-Encoding"] == "identity" and "Authorization" not in headers and "Cookie" not in headers


def test_retry_after_delays_all_requests_to_that_host(server):
    server["/a"] = reply(status=429, Retry_After="1")
    server["/b"] = reply(b"yes")
    other = Loopback()
    other["/c"] = reply(b"yes")
    fetcher = Fetcher(replace(QUICK, tries=1))
    with pytest.raises(FetchError):
        fetcher.get(f"{server.url}/a", 100)
    fetcher.get(f"{other.url}/c", 100)
    fetcher.get(f"{server.url}/b", 100)
    refused, later = server.asked
    other.close()
    assert later.at - refused.at >= 0.99 and other.asked[0].at < later.at


def test_retry_after_as_a_past_date_and_as_nonsense(server):
    for number, header in enumerate((formatdate(0, usegmt=True), "soon", "-5", "1e9", "9" * 400)):
        server[f"/{number}"] = [reply(status=503, Retry_After=header), reply(b"yes")]
        if header[0] != "9":
            assert Fetcher(QUICK).get(f"{server.url}/{number}", 100) == b"yes", header
    server["/date"] = reply(status=503, Retry_After=formatdate(4102444800, usegmt=True))  # in 2100
    assert "too long a wait" in reason(server, "/date") and server.count()["/date"] == 1


def test_a_host_that_wants_too_long_a_wait_is_not_contacted_again(server):
    server["/a"] = reply(status=429, Retry_After="3600")
    server["/b"] = reply(b"yes")
    fetcher = Fetcher(QUICK)
    for path in ("/a", "/b"):
        with pytest.raises(FetchError, match="host not asked"):
            fetcher.get(server.url + path, 100)
    assert server.count() == {"/a": 1}


def test_a_host_that_keeps_refusing_is_not_contacted_again(server, tmp_path):
    for i in range(40):
        server[f"/{i}.jpg"] = reply(status=403 if i % 2 else 503)
    server["/good.jpg"] = reply(picture())
    names = [*map(str, range(40)), "good"]
    report = images(server, names, tmp_path, policy=replace(QUICK, max_refusals=10, workers=2))
    assert len(server.asked) <= 11 and len(report.failed) == 41
    assert "host not asked" in report.failed["good"]
    server.asked.clear()
    assert images(server, ["good"], tmp_path).fetched == ["good"]


def test_other_responses_reset_the_count_of_refusals(server, tmp_path):
    for i in range(40):
        server[f"/{i}.jpg"] = reply(status=403) if i % 4 else reply(status=404)
    report = images(server, map(str, range(40)), tmp_path, policy=replace(QUICK, max_refusals=4, workers=1))
    assert len(report.gone) == 10 and set(report.failed.values()) == {"status 403"}


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"half", announce=99),
        endless(b"half", 0, 2, chunked=True),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Le"),
    ],
    ids=["length", "chunked", "bad chunk", "headers"],
)
def test_a_truncated_response_is_retried(server, answer):
    server["/a"] = [answer, answer, reply(b"complete")]
    assert Fetcher(QUICK).get(f"{server.url}/a", 100) == b"complete"
    server["/b"] = answer
    assert reason(server, "/b") in ("cut off", "empty") and server.count()["/b"] == 3


@pytest.mark.parametrize(
    "answer",
    [raw(b""), raw(b"220 smtp ready\r\n"), raw(b"\0" * 50), silence(0.6)],
    ids=["nothing", "smtp", "zeros", "silence"],
)
def test_a_server_that_does_not_speak_http(server, answer):
    server["/a"] = answer
    assert "no connection or no answer" in reason(server, "/a", timeout=0.2)
    assert server.count() == {"/a": 3}


def test_a_server_that_does_not_exist(server):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        urls = (
            f"http://127.0.0.1:{s.getsockname()[1]}/a",
            f"https://127.0.0.1:{server.server.server_port}/a",
            "http://name.invalid/a",
            f"http://{'a' * 70}.b/",
        )
        for url in urls:
            with pytest.raises(FetchError, match="no connection or no answer"):
                Fetcher(replace(QUICK, tries=2)).get(url, 100)


def test_slow_bodies_are_abandoned(server):
    server["/rate"] = endless(b"x", 0.02)
    assert reason(server, "/rate", grace=0.2, min_rate=1000) == "too slow"
    server["/time"] = endless(b"x" * 500, 0.02)
    assert reason(server, "/time", max_seconds=0.3) == "too slow"
    server["/stall"] = endless(b"x", 5, 2)
    assert reason(server, "/stall", timeout=0.2) == "cut off"
    assert server.count() == {"/rate": 1, "/time": 1, "/stall": 3}


def test_slow_headers_are_abandoned(server):
    def slowly(request):
        request.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for letter in b"X-Slow: " + b"x" * 2000:
            request.wfile.write(bytes([letter]))
            time.sleep(0.02)

    server["/slow"] = slowly
    server["/after"] = reply(b"yes")
    fetcher = Fetcher(replace(QUICK, max_seconds=0.4, tries=2))
    with pytest.raises(FetchError, match="empty|cut off"):  # by what the closed socket is doing just then
        fetcher.get(f"{server.url}/slow", 100)
    assert server.count() == {"/slow": 2} and fetcher.get(f"{server.url}/after", 100) == b"yes"


def test_a_body_that_is_too_long_is_refused(server):
    server["/says"] = reply(bytes(2000))
    server["/does"] = endless(bytes(500), 0.001)
    server["/chunked"] = endless(bytes(500), 0.001, chunked=True)
    for path in ("/says", "/does", "/chunked"):
        assert reason(server, path, max_bytes=1000) == "too large"
    assert server.count() == {"/says": 1, "/does": 1, "/chunked": 1}
    server["/announced"] = reply(b"x", announce=10**12)
    assert reason(server, "/announced", max_bytes=1000) == "too large"  # not 'cut off': the body is not read
    server["/exact"] = reply(bytes(1000))
    assert len(Fetcher(QUICK).get(f"{server.url}/exact", 1000)) == 1000


def test_wrong_content_types_are_refused(server):
    html = ("text/html", "TEXT/HTML; charset=utf-8", "application/xhtml+xml")
    for number, kind in enumerate((*html, "application/json", "text/plain")):
        server[f"/{number}"] = reply(b"<p>", Content_Type=kind)
        assert "content type" in reason(server, f"/{number}", types=image_urls.IMAGE_TYPES)
        if kind in html:
            assert "content type" in reason(server, f"/{number}")
    for kind in ("image/jpeg", "IMAGE/PNG", "binary/octet-stream"):
        server["/good"] = reply(b"x", Content_Type=kind)
        assert Fetcher(QUICK).get(f"{server.url}/good", 100, image_urls.IMAGE_TYPES) == b"x"


def test_a_compressed_body_is_refused(server):
    server["/a"] = reply(gzip.compress(bytes(10**6)), Content_Encoding="gzip")
    assert "compressed" in reason(server, "/a")


# redirects


def test_redirects_are_followed_to_web_addresses_only(server):
    other = Loopback()
    other["/end"] = reply(b"there")
    server["/start"] = reply(status=301, Location="next?a=1")
    server["/next?a=1"] = reply(status=307, Location=f"{other.url}/end")
    assert Fetcher(QUICK).get(f"{server.url}/start", 100) == b"there"
    schemes = ("file:///etc/hostname", "ftp://127.0.0.1/a", "data:text/plain,a", "javascript:1")
    for number, location in enumerate((*schemes, "http://[1", "http://a:b/")):
        server[f"/{number}"] = reply(status=302, Location=location)
        assert "no web address" in reason(server, f"/{number}"), location
    server["/none"] = reply(status=302)
    assert reason(server, "/none") == "status 302"
    other.close()


def test_endless_redirects_are_abandoned(server):
    server["/loop"] = reply(status=302, Location="/loop")
    assert reason(server, "/loop") == "too many redirects" and server.count() == {"/loop": 6}


# many images


def test_simultaneous_requests_stay_within_the_policy(tmp_path):
    hosts = [Loopback(), Loopback()]

    def together(request):
        "Respond once two requests were active here at the same time, or after five seconds."
        host = next(h for h in hosts if h.server.server_port == request.server.server_port)
        with host.changed:
            host.changed.wait_for(lambda: host.most_active >= 2, 5)
        reply(picture())(request)

    urls = {}
    for i in range(16):
        hosts[i % 2][f"/{i}"] = together
        urls[f"n{i}"] = f"{hosts[i % 2].url}/{i}"
    paths = (tmp_path / "images", tmp_path / "gone.jsonl")
    report = fetch_images(urls, *paths, policy=replace(QUICK, workers=8, per_host=2), progress=False)
    assert len(report.fetched) == 16 and [h.most_active for h in hosts] == [2, 2]
    for h in hosts:
        h.most_active = 0
        h.answers = dict.fromkeys(h.answers, [reply(picture())])
    urls = {f"m{n}": url for n, url in urls.items()}
    fetch_images(urls, *paths, policy=replace(QUICK, workers=1), progress=False)
    assert [h.most_active for h in hosts] == [1, 1]
    for h in hosts:
        h.close()


def test_only_images_are_kept_and_their_content_decides_the_suffix(server, tmp_path):
    bomb = bytearray(picture(kind="PNG"))
    struct.pack_into(">II", bomb, 16, 30_000, 30_000)
    struct.pack_into(">I", bomb, 29, zlib.crc32(bomb[12:29]))
    exif = io.BytesIO()
    Image.new("RGB", (20, 20)).save(exif, "TIFF")
    contents = {
        "jpeg": (picture(), ""),
        "png": (picture(kind="PNG"), ""),
        "webp": (picture(kind="WEBP"), ""),
        "gif": (picture(kind="GIF"), "GIF picture"),
        "tiff": (exif.getvalue(), "no picture"),
        "dot": (picture(size=(1, 1)), "almost no size"),
        "bomb": (bytes(bomb), "too many pixels"),
        "half": (picture(size=(200, 200))[:2000], "cut off"),
        "page": (b"<html>", "no picture"),
        "empty": (b"", "empty"),
    }
    for name, (content, _) in contents.items():
        server[f"/{name}.jpg"] = reply(content, Content_Type="image/jpeg")
    report = images(server, contents, tmp_path)
    assert files(tmp_path) == ["jpeg.jpg", "png.png", "webp.webp"]
    assert sorted(report.fetched) == ["jpeg", "png", "webp"]
    assert set(report.failed) == {name for name, (_, words) in contents.items() if words}
    assert all(contents[name][1] in why for name, why in report.failed.items())
    assert all((tmp_path / "images" / f).read_bytes() == contents[f.split(".")[0]][0] for f in files(tmp_path))
    assert sum(int(line.split()[0]) for line in report.lines()[1:]) == 7


def test_random_damage_is_noticed(tmp_path):
    rng = random.Random(0)
    original = picture(size=(60, 60), kind="PNG")
    kept = 0
    for _ in range(200):
        content = bytearray(original)
        for _ in range(rng.randrange(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        length = rng.choice([len(content), rng.randrange(1, len(content))])
        try:
            suffix = image_suffix(bytes(content[:length]))
        except FetchError:
            continue
        kept += 1
        assert suffix == ".png"
    assert kept < 100


def test_a_second_call_requests_only_what_failed(server, tmp_path):
    server["/a.jpg"] = reply(picture())
    server["/busy.jpg"] = reply(status=500)
    server["/cut.jpg"] = reply(picture()[:300])
    first = images(server, ["a", "busy", "cut", "gone"], tmp_path)
    assert (first.fetched, first.gone, sorted(first.failed)) == (["a"], ["gone"], ["busy", "cut"])
    server.asked.clear()
    server["/busy.jpg"] = reply(picture())
    second = images(server, ["a", "busy", "cut", "gone"], tmp_path)
    assert (second.present, second.fetched, second.gone) == (["a"], ["busy"], ["gone"])
    assert set(server.count()) == {"/busy.jpg", "/cut.jpg"}


def test_the_journal_of_gone_images(server, tmp_path):
    server["/b.jpg"] = reply(status=410)
    assert sorted(images(server, ["a", "b"], tmp_path).gone) == ["a", "b"]
    journal = tmp_path / "gone.jsonl"
    assert {json.loads(line)["reason"] for line in journal.read_text().splitlines()} == {"status 404", "status 410"}
    server.asked.clear()
    assert images(server, ["a", "b"], tmp_path).gone == ["a", "b"] and not server.asked
    journal.write_bytes(b'[1]\n{"name": 7}\n\xff\xfe\n{"name": "c", "ur')  # nonsense, and a partly written line
    server["/b.jpg"] = reply(picture())
    report = images(server, ["a", "b", "c"], tmp_path, retry_gone=True)
    assert report.fetched == ["b"] and sorted(report.gone) == ["a", "c"]
    server.asked.clear()
    assert images(server, ["a", "b", "c"], tmp_path).gone == ["a", "c"] and not server.asked
    moved = fetch_images({"a": f"{server.url}/moved.jpg"}, tmp_path / "images", journal, policy=QUICK, progress=False)
    assert moved.gone == ["a"] and server.count() == {"/moved.jpg": 1}  # a new address is requested


def test_partial_files_of_a_killed_run_are_ignored(server, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / ".a.jpg.4711.part").write_bytes(picture()[:300])
    (tmp_path / "images" / "a.jpg.part").write_bytes(picture()[:300])
    server["/a.jpg"] = reply(picture())
    assert images(server, ["a"], tmp_path).fetched == ["a"]
    assert (tmp_path / "images" / "a.jpg").read_bytes() == picture()


def test_a_full_disk_is_an_error(server, tmp_path, monkeypatch):
    def cannot_write(part):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_urls, "write_atomic", lambda path, write: write_atomic(path, cannot_write))
    for name in "abc":
        server[f"/{name}.jpg"] = reply(picture())
    with pytest.raises(ErnError, match="No space left on device"):
        images(server, "abc", tmp_path)
    assert files(tmp_path) == []


PROGRAM = """
import json, sys
from fashionern.errors import exit_on_error
from fashionern.data.download.fetch import FetchPolicy
from fashionern.data.download.image_urls import fetch_images
url, folder, names = sys.argv[1], sys.argv[2], sys.argv[3].split()
with exit_on_error():
    urls = {n: f"{url}/{n}.jpg" for n in names}
    policy = FetchPolicy(workers=3, per_host=3, grace=60)
    fetch_images(urls, f"{folder}/images", f"{folder}/gone.jsonl", policy=policy, progress=False)
"""


def restore_interrupts() -> None:
    "Let the child process receive Ctrl-C: background jobs ignore it, and an earlier test may have blocked it."
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill"])
def test_an_interrupted_run_resumes(server, tmp_path, stop):
    "Twelve images, the last six slow: the process is stopped while it downloads these."
    names = [f"n{i:02}" for i in range(12)]
    stopped = threading.Event()
    body = picture(size=(300, 300))

    def slowly(request):
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        for at in range(1000):
            request.wfile.write(body[at : at + 1])
            if stopped.wait(0.02):
                request.wfile.write(body[at + 1 :])
                return

    for i, name in enumerate(names):
        server[f"/{name}.jpg"] = reply(body) if i < 6 else slowly
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, server.url, str(tmp_path), " ".join(names)],
        stderr=subprocess.PIPE,
        preexec_fn=restore_interrupts,  # noqa: PLW1509  it only sets a signal handler
    )
    assert server.wait_for(9)  # six complete, three in progress
    os.kill(process.pid, stop)
    errors = process.communicate(timeout=20)[1].decode()
    stopped.set()
    assert process.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL), errors
    assert "Traceback" not in errors
    present = [p for p in (tmp_path / "images").iterdir() if p.suffix == ".jpg"]
    assert 6 <= len(present) < 12 and all(p.read_bytes() == body for p in present)
    before = server.count()
    report = images(server, names, tmp_path)
    assert len(report.present) == len(present) and len(report.fetched) == 12 - len(present)
    assert all(server.count()[f"/{p.name}"] == before[f"/{p.name}"] for p in present)


# files and lists


def test_a_file_is_written_completely_or_not_at_all(server, tmp_path):
    server["/a.json"] = [reply(b"[1", announce=9), reply(b"[1, 2]")]
    server["/b.json"] = reply(b"<p>moved", Content_Type="text/html")

    def accept(content):
        if content != b"[1, 2]":
            raise ErnError("not this one")

    fetcher = Fetcher(QUICK)
    assert fetch_file(f"{server.url}/a.json", tmp_path / "x" / "a.json", accept, fetcher=fetcher)
    assert not fetch_file(f"{server.url}/a.json", tmp_path / "x" / "a.json", accept, fetcher=fetcher)
    assert server.count() == {"/a.json": 2}
    server["/c.json"] = reply(b"[3]")
    for name, word in (("b.json", "content type text/html"), ("c.json", "not this one"), ("d.json", "status 404")):
        with pytest.raises(ErnError, match=word):
            fetch_file(f"{server.url}/{name}", tmp_path / name, accept, fetcher=fetcher)
    assert [p.name for p in tmp_path.rglob("*.*")] == ["a.json"]


@pytest.mark.parametrize(
    "line",
    [
        "B01",
        "B01 http://a/1.jpg more",
        "B01\tftp://a/1.jpg",
        "B/01 http://a/1.jpg",
        ".. http://a/1.jpg",
        "B01 http://:80/1.jpg",
        "B01 http://a:b/1",
        "é http://a/1",
    ],
)
def test_a_malformed_line_is_reported(tmp_path, line):
    path = tmp_path / "asin2url.dress.txt"
    path.write_text(f"B00 \t http://a.example/0.jpg\n\n{line}\n", encoding="utf-8")
    with pytest.raises(ErnError, match="asin2url.dress.txt, line 3:"):
        read_url_list(path)


def test_unreadable_lists_are_errors(tmp_path):
    with pytest.raises(ErnError, match="There is no file"):
        read_url_list(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"B00 http://a.example/\xe9.jpg\n")
    with pytest.raises(ErnError, match="not UTF-8"):
        read_url_list(tmp_path / "latin.txt")
