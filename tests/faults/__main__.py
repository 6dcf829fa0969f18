"`python -m tests.faults`: run all or some parts and print where the processes died."

import argparse
import sys
import tempfile
import time
from pathlib import Path

from fashionern.errors import plural

from .extraction import kill_extraction
from .indexes import kill_index
from .training import kill_training

PARTS = {
    "training": (200, kill_training),
    "extraction": (100, kill_extraction),
    "build": (100, lambda folder, kills, seed: kill_index(folder, kills, "build", seed)),
    "add": (100, lambda folder, kills, seed: kill_index(folder, kills, "add", seed)),
}


def main() -> None:
    "Run the parts in turn; the first kill that is not survived raises an error that names its seed."
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS), help="parts to run (default: all)")
    parser.add_argument("--kills", type=int, help="kills per part (default: 200 for training, 100 for the others)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (default: 0)")
    args = parser.parse_args()
    for part in args.only:
        count, kill = PARTS[part]
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            died = kill(Path(folder), args.kills or count, args.seed)
        places = ", ".join(f"{v} {k}" for k, v in died.items())
        print(
            f"{part}: {plural(args.kills or count, 'kill')} survived in {time.monotonic() - began:.0f} s ({places})",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
