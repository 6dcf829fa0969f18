"`python -m tests.faults`: the whole suite, or a part; a table of where the processes died."

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
    "Run the parts one after another; the first kill that is not survived ends with a traceback that names its seed."
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS), help="which parts (default: all)")
    parser.add_argument("--kills", type=int, help="how many kills of each part (default: 200 of training, 100 of the others)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    asked = parser.parse_args()
    for part in asked.only:
        count, kill = PARTS[part]
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            died = kill(Path(folder), asked.kills or count, asked.seed)
        places = ", ".join(f"{v} {k}" for k, v in died.items())
        print(f"{part}: {plural(asked.kills or count, 'kill')} survived in {time.monotonic() - began:.0f} s ({places})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
