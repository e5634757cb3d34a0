"""A reader at a terminal, who starts servers, runs commands and watches a stream."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

POSITION = re.compile(r"1\.[0-9a-z]{6}\.[0-9a-z]+\.[0-9a-z~-]+")
DOCUMENTED = "http://127.0.0.1:8000"
PATIENCE = 60.0


class Terminal:
    """Runs commands in one folder. Replaces the documented address and positions by real ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = DOCUMENTED
        self.last_id = ""
        self._server: subprocess.Popen[bytes] | None = None
        self._stream: subprocess.Popen[bytes] | None = None
        self._shown = b""
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": programs, "NO_PROXY": "127.0.0.1"}

    def serve(self, *command: str) -> None:
        """Start a server and wait until it prints its address."""
        self._server = self._start(command, stderr=subprocess.STDOUT)
        pipe = self._server.stdout
        found = self._read(pipe, lambda said: re.search(rb"http://127\.0\.0\.1:\d+", said))
        self.address = found[0].decode()

    def kill_server(self) -> None:
        """Kill the server and what it has started with SIGKILL."""
        _kill(self._server)
        self._server = None

    def run(self, code: str) -> str:
        """Run a block to its end; returns its output. A command that fails is an error."""
        done = subprocess.run(
            ["bash", "-euc", self._real(code)],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, (code, done.stdout, done.stderr)
        return done.stdout

    def watch(self, code: str) -> None:
        """Start a block that does not end, and end the one before."""
        _kill(self._stream)
        self._shown = b""
        self._stream = self._start(("bash", "-c", f"exec {self._real(code)}"))

    def shows(self, wanted: re.Pattern[bytes]) -> str:
        """Wait until the stream's output matches ``wanted``; returns it up to the match's end."""
        assert self._stream is not None
        found = self._read(self._stream.stdout, wanted.search, self._shown)
        text = found.string[: found.end()]
        self._shown = found.string[found.end() :]
        for event_id in re.findall(rb"^id: (.+)$", text, re.MULTILINE):
            self.last_id = event_id.decode()
        return text.decode()

    def close(self) -> None:
        """End everything that still runs."""
        _kill(self._stream)
        _kill(self._server)

    def _real(self, code: str) -> str:
        text = code.replace(DOCUMENTED, self.address)
        return POSITION.sub(lambda _: self.last_id, text)

    def _start(self, command: tuple[str, ...], **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            **options,
        )

    def _read(self, pipe: Any, found: Any, said: bytes = b"") -> re.Match[bytes]:
        deadline = time.monotonic() + PATIENCE
        while not (match := found(said)):
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([pipe], [], [], left)[0]
            piece = os.read(pipe.fileno(), 65536) if ready else b""
            assert piece, f"it ended or was silent for {PATIENCE} s after: {said.decode()}"
            said += piece
        return match


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
