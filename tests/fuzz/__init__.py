"""Hostile input for everything that reads files or requests from outside: `python -m tests.fuzz --help`.

A target takes one input and an empty folder. Its contract: it returns, or raises an `ErnError` of one printable line, within
limits of time and memory, and touches nothing outside its folder. `harness` enforces the contract, `hostile` generates inputs, the other
modules define the targets, one module per kind of input, and `corpus/` holds inputs that once broke something."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # for helpers of other tests
