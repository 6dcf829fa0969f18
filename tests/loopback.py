"An HTTP server on this machine; the test decides every answer."

import io
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Callable, Optional

import numpy as np
from PIL import Image

Answer = Callable[[BaseHTTPRequestHandler], None]


def reply(body: bytes = b"", status: int = 200, announce: Optional[int] = None, **headers: str) -> Answer:
    "A status, headers (`Retry_After` is sent as Retry-After) and a body; `announce` is a false Content-Length."

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body) if announce is None else announce))
        request.end_headers()
        request.wfile.write(body)
        request.close_connection = announce is not None

    return answer


def endless(piece: bytes, pause: float, at_most: int = 10**6, chunked: bool = False, **headers: str) -> Answer:
    "Up to `at_most` pieces with pauses between them and no Content-Length; a chunked body has no last chunk."

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        if chunked:
            request.send_header("Transfer-Encoding", "chunked")
        for key, value in headers.items():
            request.send_header(key.replace("_", "-"), value)
        request.end_headers()
        request.close_connection = True
        for _ in range(at_most):
            request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            request.wfile.flush()
            time.sleep(pause)

    return answer


def silence(seconds: float) -> Answer:
    "No answer at all for some seconds."

    def answer(request: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        request.close_connection = True

    return answer


def raw(content: bytes) -> Answer:
    "Any bytes, whether they are HTTP or not."

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(content)
        request.close_connection = True

    return answer


def picture(seed: int = 0, size: tuple[int, int] = (24, 32), kind: str = "JPEG") -> bytes:
    "A small random picture; every seed gives another one."
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@dataclass(frozen=True)
class Asked:
    "A request as the server received it."

    path: str
    at: float  # seconds on the monotonic clock
    headers: dict


class Loopback:
    "Answers requests for a path with its list of answers in turn, then always the last; unknown paths get 404."

    def __init__(self):
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[Asked] = []
        self.active = self.most_active = 0
        self.changed = threading.Condition()
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self):
                with loopback.changed:
                    loopback.asked.append(Asked(self.path, time.monotonic(), dict(self.headers)))
                    loopback.active += 1
                    loopback.most_active = max(loopback.most_active, loopback.active)
                    loopback.changed.notify_all()
                    known = loopback.answers.get(self.path, [reply(status=404)])
                    answer = known.pop(0) if len(known) > 1 else known[0]
                try:
                    answer(self)
                except OSError:
                    self.close_connection = True
                finally:
                    with loopback.changed:
                        loopback.active -= 1

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def __setitem__(self, path: str, answers: Answer | list[Answer]) -> None:
        self.answers[path] = answers if isinstance(answers, list) else [answers]

    def count(self) -> dict[str, int]:
        "Path → number of requests."
        counts: dict[str, int] = defaultdict(int)
        for request in self.asked:
            counts[request.path] += 1
        return dict(counts)

    def wait_for(self, requests: int) -> bool:
        "Wait until this many requests have come, for ten seconds at most; whether they have."
        with self.changed:
            return self.changed.wait_for(lambda: len(self.asked) >= requests, 10)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
