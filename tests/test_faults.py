"A sample of `python -m tests.faults`, run in a process that has computed nothing before it forks."

from pathlib import Path

from forked import forked


def test_killed_and_resumed_processes_end_like_undisturbed_ones():
    done = forked(Path(__file__).parent.parent, "from tests.faults.__main__ import main; main()", "--kills", "2")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    for part in ("training", "extraction", "build", "add"):
        assert f"{part}: 2 kills survived" in done.stdout
