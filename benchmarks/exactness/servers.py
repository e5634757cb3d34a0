"""The processes that serve the feed. They are killed, and started again at their old ports."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Server:
    """One process of ``uvicorn`` with the direct sender."""

    def __init__(self, url: str, order: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._environment = {**os.environ, "EXACTNESS_URL": url, "EXACTNESS_ORDER": order}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns when it takes connections."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "uvicorn", "--factory", "benchmarks.exactness.app:create",
            "--http", "headwater.web.uvicorn:Protocol", "--port", str(self.port),
            "--log-level", "error",
            cwd=ROOT, env=self._environment, stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        async with asyncio.timeout(60):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    if self._process.returncode is not None:
                        raise SystemExit("the server did not start") from None
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return

    async def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """It is gone when this returns."""
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.send_signal(how)
            await process.wait()
