"""Runs on the event logs that need no server; the others are long tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from headwater.eventlog import EventLog, open_log
from headwater.runs import Runs
from support.nats import Nats
from support.valkey import Valkey

LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("postgresql", "redis", "nats")]


@asynccontextmanager
async def storage(engine: str, folder: Path, request: Any) -> AsyncIterator[str]:
    """The address of an empty log that several processes can open."""
    if engine == "sqlite":
        yield f"sqlite:///{folder}/log.db"
    elif engine == "postgresql":
        server = request.getfixturevalue("postgres")
        yield server.url(server.database())
    else:
        program = Valkey(folder / "server") if engine == "redis" else Nats(folder / "server")
        await program.start()
        try:
            yield program.url
        finally:
            program.stop()


@pytest.fixture(params=["memory", "sqlite", *LONG])
async def log(request: Any, tmp_path: Path) -> AsyncIterator[EventLog]:
    """An empty log."""
    if request.param == "memory":
        async with open_log("memory://") as made:
            yield made
        return
    async with storage(request.param, tmp_path, request) as url, open_log(url) as made:
        yield made


@pytest.fixture(params=["sqlite", *LONG])
async def url(request: Any, tmp_path: Path) -> AsyncIterator[str]:
    """The address of an empty log that several processes can open."""
    async with storage(request.param, tmp_path, request) as made:
        yield made


@pytest.fixture
async def runs(log: EventLog) -> AsyncIterator[Runs]:
    """Runs whose times are short enough for a test."""
    async with Runs(log, lease=30.0, grace=5.0) as made:
        yield made
