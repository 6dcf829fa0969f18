"""Kill processes at random moments: the files they leave can be read, the same command resumes, and the result is that of an undisturbed run.

`python -m tests.faults` kills training 200 times, and extraction, building an index and adding to an index 100 times each. `tests/test_faults.py` runs a sample.
"""
