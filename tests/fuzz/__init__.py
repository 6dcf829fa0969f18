"""Hostile input for everything that reads what a stranger may have made: `python -m tests.fuzz --help`.

A target takes one input and an empty folder. Its contract: it returns or raises an `ErnError` of one harmless line, in time
and in memory, and touches nothing outside its folder. `harness` holds each target to it; `hostile` makes inputs; the other
modules are the targets, one for each kind of input; `corpus/` keeps inputs that once broke something."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # for the helpers of the other tests
