"""What a type checker says of users' code: right code passes, and each wrong line is an error."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_a_type_checker_finds_each_line_that_is_marked_wrong_and_no_other(tmp_path):
    code = HERE / "users_code.py"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(code)],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE.parents[1],
    )
    found = {int(n) for n in re.findall(r"users_code\.py:(\d+): error", done.stdout)}
    lines = code.read_text().splitlines()
    marked = {n for n, line in enumerate(lines, 1) if line.rstrip().endswith("# wrong")}
    assert found == marked, done.stdout + done.stderr
