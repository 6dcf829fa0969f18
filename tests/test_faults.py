"A sample of the kills of `python -m tests.faults`, in a process of its own that has computed nothing before it forks."

import subprocess
import sys
from pathlib import Path


def test_killed_processes_end_as_if_they_had_not_been():
    command = [sys.executable, "-m", "tests.faults", "--kills", "1"]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    for part in ("training", "extraction", "build", "add"):
        assert f"{part}: 1 kill survived" in done.stdout
