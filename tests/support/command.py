"""The ``headwater`` command: called in this process, or started as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from headwater.cli import application, sentence_of
from headwater.errors import HeadwaterError

# A start imports a lot; on a busy machine that takes seconds.
STARTS_WITHIN = 60.0


def run(*arguments: str, stdin: str | None = None, **environment: str) -> tuple[int, str]:
    """The exit code and everything printed, as ``main`` would have it."""
    clean = {name: None for name in os.environ if name.startswith("HEADWATER_")}
    result = CliRunner().invoke(application(), arguments, input=stdin, env={**clean, **environment})
    if isinstance(result.exception, HeadwaterError):
        return 1, f"{result.output}{sentence_of(result.exception)}\n"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def refused(*arguments: str, **options: Any) -> str:
    """Run a command that must fail; returns its one sentence of standard error."""
    code, output = run(*arguments, **options)
    assert code == 1, output
    lines = output.strip().splitlines()
    assert len(lines) == 1, output
    assert lines[0].endswith((".", "?")), output
    return lines[0]


class Process:
    """A command that runs until it gets a signal.

    Attributes:
        address: what it printed to be at.
        printed: standard output so far.
    """

    def __init__(self, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")}
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "headwater", *arguments],
            env={**kept, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.printed = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    def until(self, text: str) -> str:
        """Read its output until ``text``; returns the line with the text."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < deadline:
            line = self._process.stdout.readline()
            if not line:
                raise AssertionError(f"it ended: {self.printed}{self.errors()}")
            self.printed += line
            if text in line:
                return line
        raise AssertionError(f"no {text!r} in: {self.printed}")

    def address(self) -> str:
        """The address that it prints."""
        found = re.search(r"http://\S+", self.until("http://"))
        assert found is not None
        return found[0]

    def errors(self) -> str:
        """What it has written to standard error so far."""
        self._errors.seek(0)
        return self._errors.read()

    def end(self, number: int = signal.SIGTERM, *, within: float = 20.0) -> int:
        """Send it a signal; returns its exit code."""
        self._process.send_signal(number)
        return self._process.wait(within)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


@contextmanager
def started(*arguments: str, **environment: str) -> Iterator[Process]:
    """Start a command as a process. The block's end kills it if it still runs."""
    process = Process(arguments, environment)
    try:
        yield process
    finally:
        process.close()


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"
