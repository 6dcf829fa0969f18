"The contract of every target, and the process that enforces it."

import base64
import functools
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Optional

from fashionern.errors import ErnError

from .draw import Maker
from .hostile import Raw

SECONDS = 5.0  # processor time for one input
PATIENCE = 90.0  # seconds of wall time, on a machine with other work to do
MEMORY = 3 << 29  # bytes by which the process may grow during one input; the largest allowed image needs that much
ROOM = 6 << 30  # bytes of address space beyond the initial size; larger allocations fail
MAX_MESSAGE_LENGTH = 4_000  # characters


@dataclass(frozen=True)
class Target:
    "One way for input to get in."

    name: str
    inputs: Maker
    call: Callable[[Any, Path], Any]  # (input, an empty folder)
    share: float  # of the number of examples: less for a slow target
    ready: Callable[[], Any]  # prepares what all inputs share, before the time is measured


TARGETS: dict[str, Target] = {}
_READY: dict[Callable, Callable] = {}  # each is called once


def target(name: str, inputs: Maker, share: float = 1.0, ready: Callable[[], Any] = lambda: None) -> Callable:
    "Decorator that registers a function as a target."

    def register(call):
        assert name not in TARGETS
        TARGETS[name] = Target(name, inputs, call, share, _READY.setdefault(ready, functools.cache(ready)))
        return call

    return register


class BrokenContract(Exception):
    "Something that a target did but must not do."

    def __init__(self, kind: str, detail: object = ""):
        super().__init__(f"{kind}: {detail}" if detail != "" else kind)
        self.kind = kind


class _TooSlow(BaseException):
    pass


# --- what a target touches ---------------------------------------------------------------------------------------------------

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NEVER = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "os.fork", "ctypes.dlopen"}
_PATHS = {"os.mkdir": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.remove": 1, "os.rmdir": 1, "os.truncate": 1, "os.chmod": 1, "os.utime": 1, "shutil.rmtree": 1}


class Watch:
    "An audit hook that records what is opened, created, moved or started outside the allowed places while it is on."

    def __init__(self, inside: Path, private: Path):
        self.inside, self.private, self.on, self.seen = (str(inside), "/dev/null"), str(private), False, []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if not self.on:
            return
        if event == "open":
            path, _, flags = args
            if isinstance(path, (str, bytes)):
                self._look(event, path, writes=bool((flags or 0) & _WRITES))
        elif event in _PATHS:
            for path in args[: _PATHS[event]]:
                if isinstance(path, (str, bytes, os.PathLike)):
                    self._look(event, path, writes=True)
        elif event in _NEVER or event == "subprocess.Popen" or (event == "socket.connect" and "127.0.0.1" not in str(args[1])):
            self.seen.append(f"{event} {args!r:.120}")

    def _look(self, event: str, path: Any, writes: bool) -> None:
        real = os.path.abspath(os.fsdecode(path))
        if real.startswith(self.inside) or not (writes or real.startswith(self.private)):
            return
        self.seen.append(f"{event} of {real[:120]}")


# --- one input ---------------------------------------------------------------------------------------------------------


def check_sentence(e: ErnError) -> None:
    "Raise `BrokenContract` unless the message is one line that is safe to print."
    text = str(e)
    wrong = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")), None)
    if wrong is not None or not text.strip() or len(text) > MAX_MESSAGE_LENGTH:
        raise BrokenContract("an error message that is not one printable line", f"{len(text)} characters, {wrong!r}: {text[:300]!r}")


class Bench:
    "A folder in which to try inputs, one per process."

    def __init__(self):
        self.base = Path(tempfile.mkdtemp(prefix="fuzz-")).resolve()
        self.outside, self.tmp = self.base / "outside", self.base / "tmp"
        self.inside = self.outside / "inside"
        for folder in (self.outside, self.tmp, self.inside):
            folder.mkdir()
        (self.outside / "canary.txt").write_text("must not be read or written")
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.tmp)
        os.chdir(self.tmp)
        self.watch = Watch(self.inside, self.base)
        self.watch.inside += (str(self.tmp),)
        self._listing = self._look()
        signal.signal(signal.SIGPROF, self._alarm)

    @staticmethod
    def _alarm(*_):
        raise _TooSlow

    def _look(self) -> list[str]:
        return sorted(e.name for folder in (self.base, self.outside) for e in os.scandir(folder))

    def close(self) -> None:
        os.chdir("/")
        shutil.rmtree(self.base, ignore_errors=True)

    def try_one(self, target: Target, given: Any) -> bool:
        "Whether the input was accepted; raises an error unless it was accepted or properly refused."
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.watch.seen.clear()
        try:
            self.watch.on = True
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                target.call(given, self.inside)
                accepted = True
            except ErnError as e:
                accepted = False
                check_sentence(e)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        except _TooSlow:
            where = traceback.extract_tb(sys.exc_info()[2])[-1]
            raise BrokenContract("took too long", f"in {Path(where.filename).name}:{where.lineno}") from None
        finally:
            self.watch.on = False
            for entry in os.scandir(self.inside):
                shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown) << 10
        if self.watch.seen:
            raise BrokenContract("touched something outside its folder", self.watch.seen[0])
        if self._look() != self._listing:
            raise BrokenContract("left something outside its folder", self._look())
        if grown > MEMORY:
            raise BrokenContract("took too much memory", f"{grown / 1e6:,.0f} MB")
        return accepted


# --- many inputs, in a separate process ----------------------------------------------------------------------------


@dataclass
class Outcome:
    "The outcome of a target's inputs."

    name: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0  # seconds of processor time
    seconds: float = 0.0  # of processor time, in total
    other: dict[str, tuple[int, str, bytes]] = field(default_factory=dict)  # place → count, traceback, shortest input (pickled)


def signature(e: BaseException) -> str:
    "The type of an error and the innermost line of the package in its traceback."
    own = [f for f in traceback.extract_tb(e.__traceback__) if "/fashionern/" in f.filename] or traceback.extract_tb(e.__traceback__)[-1:]
    if isinstance(e, BrokenContract):
        return e.kind
    return f"{type(e).__name__} in {Path(own[-1].filename).stem}.{own[-1].name}:{own[-1].lineno}"


def _child(target: Target, examples: int, seed: int, last: Path, pipe, counter) -> None:
    "Try `examples` inputs and send the outcome; the file `last` holds the current input."
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")
    os.dup2(sys.stdout.fileno(), 1), os.dup2(sys.stdout.fileno(), 2)
    bench, out, rng, began = Bench(), Outcome(target.name), random.Random(f"{target.name} {seed}"), time.process_time()
    now = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, now + ROOM))
    with open(last, "wb", buffering=0) as note:
        for counter.value in range(1, examples + 1):
            value = target.inputs(rng)
            packed = pickle.dumps(value)
            note.seek(0), note.write(packed)
            start = time.process_time()
            try:
                accepted = bench.try_one(target, value)
                out.accepted, out.refused = out.accepted + accepted, out.refused + (not accepted)
            except Exception as e:
                key = signature(e)
                count, trace, shortest = out.other.get(key, (0, "", b""))
                if not shortest or len(packed) < len(shortest):
                    trace, shortest = "".join(traceback.format_exception(e))[-3000:], packed
                out.other[key] = count + 1, trace, shortest
            out.slowest = max(out.slowest, time.process_time() - start)
    bench.close()
    out.inputs, out.seconds = examples, time.process_time() - began
    pipe.send(out)


def run_target(target: Target, examples: int, seed: int = 0) -> Outcome:
    "The outcome of all inputs, tried in a separate process; if it dies or hangs, its last input is to blame."
    target.ready()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    counter, seen, what = context.RawValue("Q", 0), 0, ""
    with tempfile.TemporaryDirectory() as d:
        last = Path(d) / "last"
        child = context.Process(target=_child, args=(target, examples, seed, last, theirs, counter))
        child.start()
        theirs.close()
        try:
            while not ours.poll(PATIENCE):
                if counter.value == seen:
                    what = f"no answer for {PATIENCE:g} seconds"
                    break
                seen = counter.value
            else:
                outcome = ours.recv()
                child.join()
                return outcome
        except EOFError:
            child.join()
            what = f"the process ended with status {child.exitcode}"
        child.kill()
        child.join()
        return Outcome(target.name, max(1, counter.value), other={what: (1, what, last.read_bytes() if last.is_file() else b"")})


def replayed(file: Path) -> Outcome:
    "The outcome of one input from the corpus."
    kept = json.loads(file.read_text(encoding="utf-8"))
    value, target = decode(kept["input"]), TARGETS[kept["target"]]
    return run_target(replace(target, name=file.stem, inputs=lambda rng: value), 1)


# --- inputs as JSON ----------------------------------------------------------------------------------------------------


def encode(value: Any) -> Any:
    "An input as JSON: bytes as {'b64': …}, a dictionary as {'dict': pairs}, a float as {'float': …}."
    if isinstance(value, Raw):
        return {"raw": str(value)}
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {"dict": [[encode(k), encode(v)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return [encode(v) for v in value]
    return {"float": repr(value)} if isinstance(value, float) else value


def decode(value: Any) -> Any:
    "The inverse of `encode`, with tuples as lists."
    if isinstance(value, list):
        return [decode(v) for v in value]
    if isinstance(value, dict):
        if "raw" in value:
            return Raw(value["raw"])
        if "b64" in value:
            return base64.b64decode(value["b64"])
        return float(value["float"]) if "float" in value else {decode(k): decode(v) for k, v in value["dict"]}
    return value


def corpus(folder: Optional[Path] = None) -> list[Path]:
    "The inputs of the corpus: files TARGET--WHAT.json."
    return sorted((folder or Path(__file__).parent / "corpus").glob("*.json"))
