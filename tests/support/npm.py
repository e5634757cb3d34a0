"""The npm packages that tests of the browser client, the console and the adapters need."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["FOLDER", "installed", "run"]

FOLDER = Path(__file__).resolve().parents[2] / "clients" / "js"

_INSTALLS_WITHIN = 240.0


def installed(folder: Path = FOLDER) -> Path:
    """The folder, of the browser client if none is named, with its packages installed.

    Skips the test where npm is missing or cannot reach its registry.
    """
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed (apt install nodejs npm)")
    modules = folder / "node_modules"
    modules.mkdir(exist_ok=True)
    wanted = (folder / "package-lock.json").read_text()
    # The tests run in several processes, and two installations at once spoil each other.
    with (folder / ".installing").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mark = modules / ".installed"
        if not mark.is_file() or mark.read_text() != wanted:
            try:
                done = run("npm", "ci", folder=folder, timeout=_INSTALLS_WITHIN)
            except subprocess.TimeoutExpired:
                pytest.skip(f"npm could not install within {_INSTALLS_WITHIN:g} s")
            if done.returncode:
                pytest.skip(f"npm could not install: {done.stderr[-300:]}")
            mark.write_text(wanted)
    return folder


def run(
    *words: str, folder: Path = FOLDER, timeout: float = 110.0
) -> subprocess.CompletedProcess[str]:
    """Run a command in that folder to its end."""
    return subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False
    )
