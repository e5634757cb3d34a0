"""The engines that can be measured: real servers from their wheels, which can be killed."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Servers are started as the tests start them.
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "e2e")]

from support.nats import Nats  # noqa: E402
from support.postgres import Postgres  # noqa: E402
from support.valkey import Valkey  # noqa: E402

__all__ = ["DURABLE", "ENGINES", "ROOT", "Engine", "engine"]

DURABLE = ("sqlite", "postgresql", "redis", "nats")
ENGINES = ("memory", *DURABLE)


class Engine:
    """One engine and, if it has one, its server.

    Attributes:
        url: of the log.
        pids: of its server.
    """

    def __init__(self, name: str, url: str, server: Valkey | Nats | Postgres | None = None) -> None:
        self.name, self.url = name, url
        self._server = server

    @property
    def has_server(self) -> bool:
        return self._server is not None

    @property
    def pids(self) -> list[int]:
        process = getattr(self._server, "_process", None)
        return [process.pid] if process is not None else []

    async def crash(self) -> None:
        """End its server at once, and start it again."""
        if isinstance(self._server, Postgres):
            await asyncio.to_thread(self._server.stop, signal.SIGQUIT)
            await asyncio.to_thread(self._server.start)
        elif self._server is not None:
            self._server.kill()
            await self._server.start()


@asynccontextmanager
async def engine(name: str, folder: Path, *, always: bool = False) -> AsyncIterator[Engine]:
    """An engine by its name, with the durability that is its default.

    Arguments:
        always: Valkey flushes its file at each append. With ``everysec``, its default, it may
            hold appends back for a second while the disk is busy, and lose them when it is killed.
    """
    if name in ("memory", "sqlite"):
        yield Engine(name, "memory://" if name == "memory" else f"sqlite:///{folder}/events.db")
    elif name == "postgresql":
        postgres = Postgres(fsync="on")
        try:
            await asyncio.to_thread(postgres.create)
            await asyncio.to_thread(postgres.start)
            url = f"postgresql://postgres@/postgres?host={postgres.folder}"
            yield Engine(name, url, postgres)
        finally:
            postgres.remove()
    else:
        made: Valkey | Nats
        if name == "redis":
            flush = "always" if always else "everysec"
            made = Valkey(folder / name, "--appendonly", "yes", "--appendfsync", flush)
        else:
            made = Nats(folder / name)
        try:
            await made.start()
            yield Engine(name, made.url, made)
        finally:
            made.kill()
