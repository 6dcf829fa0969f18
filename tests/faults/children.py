"Forked child processes, which import nothing again: one starts in 0.02 seconds instead of five."

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Optional

WAIT = 300  # seconds after which a child counts as hung


@dataclass(frozen=True)
class Ended:
    "How a child ended."

    status: int  # 0: success; negative: the signal that killed it
    seconds: float
    output: str


def child(
    work: Callable[[], object],
    log: Path,  # the file for its output
    after: Optional[float] = None,  # seconds until it is killed; None: never
    by: int = signal.SIGKILL,
) -> Ended:
    "Run `work` in a forked process; the parent must not have computed anything with torch."
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _work(work, log)
    timer = threading.Timer(
        WAIT if after is None else after, lambda: _kill(pid, signal.SIGKILL if after is None else by)
    )
    timer.start()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    timer.cancel()
    seconds = time.monotonic() - began
    assert seconds < WAIT, f"a child hung for {WAIT} seconds: {log.read_text()[-2000:]}"
    return Ended(status, seconds, log.read_text(errors="replace") if log.exists() else "")


def counted(kills: int, what: str) -> Iterator[int]:
    "0…kills−1; reports every tenth, because a full run takes an hour."
    for number in range(kills):
        if number and number % 10 == 0:
            print(f"{what}: {number} of {kills} survived", file=sys.stderr, flush=True)
        yield number


def _kill(pid: int, by: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, by)


def _work(work: Callable[[], object], log: Path) -> None:
    status = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        work()
        status = 0
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
