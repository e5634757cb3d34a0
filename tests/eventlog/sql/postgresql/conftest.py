"""A database, a log in it, and other programs beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from headwater.eventlog import START, EventLog, open_log
from headwater.eventlog.sql import SqlLog
from support.postgres import Postgres

Session = Callable[[], Awaitable["psycopg.AsyncConnection[Any]"]]


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    name = postgres.database()
    yield name
    postgres.drop(name)


@pytest.fixture
def url(postgres: Postgres, database: str) -> str:
    """As libpq takes it, over a Unix socket."""
    return f"postgresql://postgres@/{database}?host={postgres.folder}"


@pytest.fixture
async def log(url: str) -> AsyncIterator[SqlLog]:
    log = open_log(url)
    assert isinstance(log, SqlLog)
    async with log:
        yield log


@pytest.fixture
def statements(log: SqlLog) -> list[str]:
    """The statements that the log sends from here on."""
    sent: list[str] = []
    sa.event.listen(
        log.engine.sync_engine, "before_cursor_execute", lambda *args: sent.append(args[2])
    )
    return sent


@pytest.fixture
async def session(url: str) -> AsyncIterator[Session]:
    """Opens connections beside the log's: other programs."""
    opened: list[psycopg.AsyncConnection[Any]] = []

    async def connect() -> psycopg.AsyncConnection[Any]:
        opened.append(await psycopg.AsyncConnection.connect(url, autocommit=True))
        return opened[-1]

    yield connect
    for connection in opened:
        await connection.close()


@pytest.fixture
def seen() -> Callable[..., Awaitable[list[object]]]:
    """The ``n`` of what a topic holds."""

    async def read(log: EventLog, topic: str = "t") -> list[object]:
        return [record.data["n"] for record in (await log.read(topic, START, 10_000)).records]

    return read
