"""Programs that tests start on free ports, and end by their process id."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from support.until import outside


def free_port() -> int:
    """A port that nothing listens at just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Program:
    """One server program. ``start`` after an end uses the same port and data.

    Attributes:
        port: on 127.0.0.1.
        folder: its data and its log.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def command(self) -> Sequence[str]:
        """The program and its arguments."""
        raise AssertionError

    @property
    def log(self) -> str:
        return (self.folder / "output.log").read_text()

    async def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self.begin()
        await outside(self._up)

    def begin(self) -> None:
        """Start it, and wait for nothing."""
        with (self.folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                self.command(), stdout=output, stderr=subprocess.STDOUT, cwd=self.folder
            )

    async def _up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        return await self.answers()

    async def answers(self) -> bool:
        """Whether it is ready."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    def stop(self) -> None:
        """End it with SIGTERM."""
        self._end(kill=False)

    def kill(self) -> None:
        """End it with SIGKILL. What it has written to the kernel is kept."""
        self._end(kill=True)

    async def pause(self) -> None:
        """Stop it with SIGSTOP: its connections stay open and silent. Returns once it stopped."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        status = Path(f"/proc/{self._process.pid}/stat")
        await outside(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, *, kill: bool) -> None:
        process, self._process = self._process, None
        if process is not None:
            if kill:
                process.kill()
            else:
                process.terminate()
            process.wait(20)
