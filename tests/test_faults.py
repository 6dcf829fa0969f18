"A sample of the kills of `python -m tests.faults`, each part in a process of its own that has computed nothing before it forks."

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("part, kills", [("training", 2), ("extraction", 2), ("build", 2), ("add", 2)])
def test_killed_processes_end_as_if_they_had_not_been(part, kills):
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--only", part, "--kills", str(kills)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert f"{kills} kills survived" in done.stdout
