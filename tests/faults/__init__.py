"""Processes killed at random moments: what is left behind opens, the same command goes on, and what comes out is what would have come out.

`python -m tests.faults` runs the whole: 200 kills of training, 100 of extraction, 100 of building an index, 100 of adding to one. `tests/test_faults.py` runs a sample.
"""
