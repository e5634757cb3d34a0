"""Progress bars: on a terminal, and nowhere else."""

import os
import re
import subprocess
import sys

import pytest

CODE = """
import sys, time
from headwater.cli.progress import progress
with progress("counting", 3) as bar:
    for number in range(4):
        bar.at(number, total=3, says=f"{number} counted")
        print("line", number, flush=True)
        time.sleep(0.15)
"""


def test_in_a_pipe_there_is_none():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "".join(f"line {number}\n" for number in range(4))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals like these")
def test_on_a_terminal_it_is_on_standard_error_and_leaves_standard_output_alone():
    import pty

    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", CODE],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        text=True,
    ) as process:
        printed, _ = process.communicate(timeout=60)
    os.close(theirs)
    shown = os.read(ours, 1_000_000).decode()
    os.close(ours)
    assert process.returncode == 0
    assert printed == "".join(f"line {number}\n" for number in range(4))
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "counting" in plain
    assert "3 counted" in plain
    assert "100%" in plain
