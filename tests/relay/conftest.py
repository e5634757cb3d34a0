"""A database with tracked tables, of each kind, and a log beside it."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from headwater.eventlog import open_log
from headwater.sql import postgresql_engine, sqlite_engine
from support.relays import Moved
from support.tables import Base


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
async def moved(request, tmp_path):
    """On both databases; the log is in SQLite."""
    async with AsyncExitStack() as stack:
        if request.param == "postgresql":
            postgres = request.getfixturevalue("postgres")
            name = postgres.database()
            stack.callback(postgres.drop, name)
            engine = postgresql_engine(postgres.url(name))
        else:
            engine = sqlite_engine(f"sqlite:///{tmp_path}/table.db")
        stack.push_async_callback(engine.dispose)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        log = await stack.enter_async_context(open_log(f"sqlite:///{tmp_path}/log.db"))
        yield Moved(engine, log)


@pytest.fixture
async def engine(tmp_path):
    """A database in SQLite with the tables."""
    engine = sqlite_engine(f"sqlite:///{tmp_path}/table.db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()
