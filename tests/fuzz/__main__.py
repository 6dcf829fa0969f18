"`python -m tests.fuzz`: try many inputs on every target and print a table."

import argparse
import json
import pickle
import sys
import time
from pathlib import Path

from . import targets  # noqa: F401  registers them
from .harness import TARGETS, Outcome, corpus, encode, replayed, run_target


def table(outcomes: list[Outcome]) -> str:
    "The outcomes as a table with a total."
    lines = [f"{'target':24} {'inputs':>8} {'accepted':>8} {'refused':>8} {'other':>6} {'slowest':>9} {'rate':>8}"]
    total = Outcome("all")
    for o in outcomes:
        for name in ("inputs", "accepted", "refused", "seconds"):
            setattr(total, name, getattr(total, name) + getattr(o, name))
        total.slowest = max(total.slowest, o.slowest)
    for o in (*outcomes, total):
        other = o.inputs - o.accepted - o.refused
        lines.append(f"{o.name:24.60} {o.inputs:8,} {o.accepted:8,} {o.refused:8,} {other:6,} {1000 * o.slowest:6,.0f} ms {o.inputs / max(o.seconds, 1e-3):6,.0f}/s")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=3_000, help="inputs per target; slow targets get a fixed share of them")
    parser.add_argument("--only", nargs="*", default=[], help="only targets whose names start with one of these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--found", type=Path, help="folder in which to save inputs that break something")
    parser.add_argument("--replay", action="store_true", help="try the inputs in tests/fuzz/corpus instead, which once broke something")
    args = parser.parse_args()
    chosen = [t for t in TARGETS.values() if not args.only or t.name.startswith(tuple(args.only))]
    kept = [f for f in corpus() if f.stem.startswith(tuple(t.name + "--" for t in chosen))]
    outcomes, began = [], time.monotonic()
    for target in kept if args.replay else chosen:
        outcomes.append(replayed(target) if args.replay else run_target(target, max(1, round(args.examples * target.share)), args.seed))
        for key, (count, trace, shortest) in outcomes[-1].other.items():
            value = encode(pickle.loads(shortest)) if shortest else None  # pickled by our own child process
            print(f"=== {outcomes[-1].name}: {key}, {count} times", trace.encode("ascii", "backslashreplace").decode(), f"input: {json.dumps(value)[:1500]}", sep="\n", flush=True)
            if args.found and shortest:
                args.found.mkdir(parents=True, exist_ok=True)
                name = "".join(c if c.isalnum() else "-" for c in key)[:80]
                (args.found / f"{outcomes[-1].name}--{name}.json").write_text(json.dumps({"target": outcomes[-1].name, "what": key, "input": value}))
        print(table(outcomes[-1:]).split("\n")[1], file=sys.stderr, flush=True)
    print(table(outcomes))
    print(f"{len(outcomes)} {'kept inputs' if args.replay else 'targets'} in {time.monotonic() - began:.0f} seconds")
    return 1 if any(o.other for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
