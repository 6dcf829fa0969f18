"""Kill processes at random moments: their files stay readable, and a resumed run equals an undisturbed one.

`python -m tests.faults` kills training 200 times, and extraction, building an index and adding to an index
100 times each. `tests/test_faults.py` runs a sample.
"""
