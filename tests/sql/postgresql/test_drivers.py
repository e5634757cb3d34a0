"""The engine that an application has is good for a Table, whatever its driver."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.errors import DeclarationError, SourceUnavailableError
from headwater.sql import Table
from support.tables import Base, Client, Log, Recorder


@pytest.fixture(params=["asyncpg", "psycopg", "psycopg (not async)"])
async def engines(request, postgres, database):
    """An engine for Table, and one that another process writes by."""
    url = postgres.url(database)
    writer = create_async_engine(url)
    if request.param == "psycopg (not async)":
        engine = sa.create_engine(url)
        yield engine, writer
        engine.dispose()
    else:
        engine = create_async_engine(sa.make_url(url).set(drivername=f"postgresql+{request.param}"))
        yield engine, writer
        await engine.dispose()
    await writer.dispose()


async def test_pages_and_changes_of_other_processes(engines):
    engine, writer = engines
    logs, clients = Table(engine, Log), Table(engine, Client)
    recorder = Recorder()
    await clients.origin.attach(recorder)
    try:
        async with writer.begin() as connection:
            await connection.execute(sa.insert(Log).values(user_id=1))
            await connection.execute(sa.insert(Client).values(id="x", user_id=1))
        await recorder.count(1)
        async with writer.begin() as connection:
            await connection.execute(sa.update(Client).values(user_id=2))
        await recorder.count(3)
        async with writer.begin() as connection:
            await connection.execute(sa.delete(Client))
        await recorder.count(4)
        page = await logs.where(user_id=["1", 5]).page(5)
        assert [change.item["user_id"] for change in page.changes] == [1]
        place = await logs.where().locate(page.epoch, str(page.end))
        assert (await logs.where().page(5, after=place)).changes == []
        removed = [change for change in recorder.changes if change.removed]
        assert [change.key for change in removed] == [{"id": "x"}] * 2
    finally:
        await clients.origin.detach()
        await logs.engine.dispose()


async def test_a_server_that_is_away_is_an_outage(tmp_path):
    for driver in ("psycopg", "asyncpg"):
        url = f"postgresql+{driver}://nobody@/nothing?host={tmp_path}"
        engine = create_async_engine(url)
        with pytest.raises(SourceUnavailableError):
            await Table(engine, Log).where().page(1)
        await engine.dispose()


async def test_tracking_is_made_by_asyncpg_too(postgres):
    name = postgres.database()
    url = sa.make_url(postgres.url(name)).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(sa.insert(Log).values(user_id=1))
    assert len((await Table(engine, Log).where().page(5)).changes) == 1
    await engine.dispose()
    postgres.drop(name)


def test_a_driver_without_async_connections_is_refused_with_what_to_do():
    engine = sa.create_engine("postgresql+pg8000://", module=_FakeDriver())
    with pytest.raises(DeclarationError, match=r"pg8000 has no async.*listen="):
        Table(engine, Log)


async def test_an_application_writes_by_psycopg2(postgres):
    """It makes the tables, and its commits wake the streams; Table needs another driver."""
    name = postgres.database()
    url = sa.make_url(postgres.url(name))
    own = sa.create_engine(url.set(drivername="postgresql+psycopg2"))
    with pytest.raises(DeclarationError, match=r"psycopg2 has no async.*listen="):
        Table(own, Client)
    Base.metadata.create_all(own)
    reading = create_async_engine(url)
    clients, recorder = Table(reading, Client, listen=[own]), Recorder()
    await clients.origin.attach(recorder)
    try:
        with own.begin() as connection:
            connection.execute(sa.insert(Client).values(id="50%", user_id=1))
        await recorder.count(1)
        with own.begin() as connection:
            connection.execute(sa.delete(Client))
        await recorder.count(2)
        assert [change.key for change in recorder.changes] == [{"id": "50%"}] * 2
    finally:
        await clients.origin.detach()
        await reading.dispose()
        own.dispose()
        postgres.drop(name)


class _FakeDriver:
    """The driver need not be installed to be refused."""

    paramstyle = "pyformat"
    __version__ = "2.9.9"
