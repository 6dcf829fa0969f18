"""A standalone Milvus server on this machine for tests, from the wheel that `make test-milvus` unpacks.

python tests/milvus_server.py COMMAND …    run a command with the address of a new server in FASHIONERN_MILVUS
"""

import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any, Optional

ROOT = Path(__file__).resolve().parents[1]
WHEEL = ROOT / ".milvus-server"  # of the package `milvus`, in a folder of its own: it asks for an old pymilvus
START_SECONDS = 300  # 10 on an idle machine
_OTHER_PORTS = {"etcd_peer_port": 2380, "health_port": 9091}  # that the wheel leaves fixed, and the first to try
_ETCD = """
listen-client-urls: http://127.0.0.1:{client}
advertise-client-urls: http://127.0.0.1:{client}
listen-peer-urls: http://127.0.0.1:{peer}
initial-advertise-peer-urls: http://127.0.0.1:{peer}
initial-cluster: default=http://127.0.0.1:{peer}
"""


def is_installed() -> bool:
    "Whether the wheel with the server is here."
    return (WHEEL / "milvus").is_dir()


def _wheel() -> ModuleType:
    "The wheel's module."
    if not is_installed():
        raise SystemExit(f"error: there is no Milvus server in {WHEEL}. Run make test-milvus.")
    if str(WHEEL) not in sys.path:
        sys.path.append(str(WHEEL))
    return importlib.import_module("milvus")


def _listen(port: int) -> Optional[socket.socket]:
    """A socket that listens at a port of this machine; None if another program does.

    Unlike the wheel's own probe, it accepts a port with connections in TIME_WAIT, where they stay for a minute after
    a server was killed. The server accepts it too."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(("127.0.0.1", port))
        found.listen()
    except OSError:
        found.close()
        return None
    return found


def _ending_with_parent(program: Path, *arguments: str) -> list[str]:
    """A command that runs a program, which Linux kills when the thread that started it ends, even if that is killed.

    A process of its own asks for that and then becomes the program. `preexec_fn` would ask in a fork of this process,
    and a fork while another thread sends requests can die of gRPC's handlers."""
    if sys.platform != "linux":
        return [str(program), *arguments]
    ask = f"ctypes.CDLL(None).prctl(1, {int(signal.SIGKILL)})"
    code = f"import ctypes, os, sys; {ask}; os.execv(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-c", code, str(program), *arguments]


class MilvusServer:
    "A server in a folder; it can be killed and started again with the same address and data."

    def __init__(
        self,
        folder: Path,  # of its data; created
        **settings: Any,  # of its configuration, such as authorization_enabled=True
    ):
        self.folder = folder
        self.settings = settings
        self.port: Optional[int] = None
        self.process: Optional[subprocess.Popen] = None

    @property
    def address(self) -> str:
        scheme = "https" if self.settings.get("tls_mode") else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    def start(self) -> "MilvusServer":
        "Start it on free ports, or on those of the last time, and wait until it answers."
        wheel = _wheel()
        wheel._initialize_data_files(WHEEL)  # unpacks WHEEL/bin once
        config = wheel.MilvusServerConfig(data_dir=str(self.folder))
        config.try_bind_port = _listen
        config.configurable_items |= {name: [int, port] for name, port in _OTHER_PORTS.items()}
        if self.port is not None:
            if not (probe := _listen(self.port)):
                raise RuntimeError(f"Another program listens at {self.address}. Stop it.")
            probe.close()
            config.update(proxy_port=self.port)
        for name, value in self.settings.items():
            config.set(name, value)
        config.resolve()
        self.port = config.get("proxy_port")
        self._keep_files_apart()
        etcd = self.folder / "configs" / "etcd.yaml"
        etcd.write_text(_ETCD.format(client=config.get("etcd_port"), peer=config.get("etcd_peer_port")))
        environment = {
            **os.environ,
            "DEPLOY_MODE": "STANDALONE",
            "ETCD_CONFIG_PATH": str(etcd),
            "METRICS_PORT": str(config.get("health_port")),
            "LD_LIBRARY_PATH": str(WHEEL / "bin"),
            "DYLD_LIBRARY_PATH": str(WHEEL / "bin"),
        }
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                _ending_with_parent(WHEEL / "bin" / "milvus", "run", "standalone"),
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
            )
        self._wait(f"http://127.0.0.1:{config.get('health_port')}/healthz")
        return self

    def _keep_files_apart(self) -> None:
        """Name the folder of the data as one in the server's own folder, where it is started.

        Below an absolute path, a server of 2.3.5 takes its cache's file of a vector for the vector's own and
        deletes it once it is read (milvus-io/milvus issue 30651). One with object storage has no such path."""
        settings = self.folder / "configs" / "milvus.yaml"
        before = settings.read_text()
        after = before.replace(f"  path: {self.folder / 'data'} ", "  path: data ")
        if after == before:
            raise RuntimeError(f"{settings} does not name the folder of the data.")
        settings.write_text(after)

    def _wait(self, health: str) -> None:
        "Wait until the server says that it is healthy."
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process is not None and self.process.poll() is None:
            try:
                with urllib.request.urlopen(health, timeout=5) as answer:
                    if b"OK" in answer.read():
                        return
            except (urllib.error.URLError, OSError):
                pass  # not yet
            time.sleep(0.2)
        self.kill()
        log = (self.folder / "server.log").read_text(errors="replace")
        raise RuntimeError(f"The server did not start. Its log ends in:\n{log[-2_000:]}")

    def kill(self) -> None:
        "End it at once, as a power cut would."
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        "End it in an orderly way."
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None

    def __enter__(self) -> "MilvusServer":
        return self.start()

    def __exit__(self, *error: Any) -> None:
        self.stop()


def main(command: list[str]) -> int:
    "Run a command with a server of its own; returns its exit status."
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="milvus-server-"))
    try:
        with MilvusServer(folder) as server:
            return subprocess.run(command, env={**os.environ, "FASHIONERN_MILVUS": server.address}).returncode
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    raise SystemExit(main(sys.argv[1:]))
