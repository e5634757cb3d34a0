"""A poll whose tag is current reads no page, and is never answered with what was before it."""

import asyncio

import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.sql import Table
from headwater.sql.postgresql import _revision as revision
from headwater.web.fastapi import LiveRouter, Source
from support.http import poll, request
from support.proxy import proxied
from support.server import serving
from support.tables import Client, Log, Recorder, pages_read
from support.until import outside

pytestmark = pytest.mark.long


@pytest.fixture(params=[False, True], ids=["tracked", "untracked"])
async def table(engine, request):
    if request.param:
        table = Table.untracked(engine, Log, order_by="created_at")
    else:
        table = Table(engine, Log)
    yield table
    await table.origin.detach()


@pytest.fixture
async def logs(table):
    await table.origin.attach(Recorder())
    return table.where(user_id=1)


INSERT = "INSERT INTO logs (user_id, created_at) VALUES (1, now())"


async def test_it_is_the_same_until_something_is_committed(logs, session):
    other = await session()
    await other.execute(INSERT)
    before = await logs.revision()
    assert before is not None
    assert await logs.revision() == before
    for change in (
        INSERT,
        "UPDATE logs SET message = 'else'",
        "DELETE FROM logs",
        "TRUNCATE logs",
    ):
        await other.execute(change)
        now = await logs.revision()
        assert now != before, change
        before = now


async def test_an_older_transaction_that_commits_later_makes_a_difference(logs, session):
    early, late = await session(), await session()
    await early.execute("BEGIN")
    await early.execute(INSERT)
    await late.execute(INSERT)
    before = await logs.revision()
    assert await logs.revision() == before
    await early.execute("COMMIT")
    assert await logs.revision() != before


async def test_it_is_not_asked_while_nobody_follows(table):
    source = table.where(user_id=1)
    assert await source.revision() is None
    await table.origin.attach(Recorder())
    assert await source.revision() is not None
    await table.origin.detach()
    assert await source.revision() is None


async def test_what_was_known_is_forgotten_while_nobody_follows(table):
    source, known = table.where(user_id=1), set()
    for _ in range(3):
        await table.origin.attach(Recorder())
        found = await source.revision()
        assert found not in {None, *known}
        known.add(found)
        await table.origin.detach()


async def test_one_connection_of_its_own_answers_all_tables_and_goes_with_them(
    engine, logs, session
):
    other = await session()

    async def asking():
        found = await other.execute(
            "SELECT pid FROM pg_stat_activity "
            "WHERE query LIKE '%pg_postmaster_start_time()::text' AND pid <> pg_backend_pid()"
        )
        return [row[0] for row in await found.fetchall()]

    clients = Table(engine, Client)
    await clients.origin.attach(Recorder())
    assert await asking() == []
    told = await asyncio.gather(
        *(source.revision() for _ in range(30) for source in (logs, clients.where()))
    )
    assert len(set(told)) == 1
    assert len(await asking()) == 1
    await clients.origin.detach()
    # Another connection answers. The server may have vacuumed meanwhile, so it is not compared.
    assert await logs.revision()
    await logs.origin.detach()

    async def gone():
        return await asking() == []

    await outside(gone)


async def test_a_lost_connection_is_made_anew_and_what_was_known_is_forgotten(logs, session):
    """A server that broke down may count transactions anew that it had lost."""
    other = await session()
    before = await logs.revision()
    await other.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE query LIKE '%pg_postmaster_start_time()::text' AND pid <> pg_backend_pid()"
    )
    after = await logs.revision()
    assert after not in (None, before)
    assert await logs.revision() == after


async def test_polls_read_a_page_only_when_something_was_committed(
    engine, table, session, monkeypatch
):
    read = pages_read(monkeypatch)
    app, live = FastAPI(), LiveRouter()
    app.include_router(live, prefix="/api")

    @live.feed("/logs", item=dict)
    async def mine() -> Source:
        return table.where(user_id=1)

    other = await session()
    async with serving(app) as port, request(port, "/api/logs/stream") as stream:
        await stream.next()
        _, tag = await poll(port, "/api/logs", "none")
        read.clear()
        assert {await poll(port, "/api/logs", tag) for _ in range(5)} == {(304, tag)}
        assert not read
        for _ in range(5):
            await other.execute(INSERT)
            status, now = await poll(port, "/api/logs", tag)
            assert (status, now != tag) == (200, True)
            tag = now


async def test_a_connection_that_is_silent_is_given_up(postgres, database, monkeypatch):
    """As behind a firewall that forgot it."""
    monkeypatch.setattr(revision, "PATIENCE", 0.3)
    async with proxied(str(postgres.folder / ".s.PGSQL.5432")) as proxy:
        address = f"postgresql+psycopg://postgres@127.0.0.1:{proxy.port}/{database}"
        engine = create_async_engine(address)
        logs = Table(engine, Log)
        await logs.origin.attach(Recorder())
        before = await logs.where().revision()
        assert before is not None
        async with asyncio.timeout(15):
            proxy.hold()
            assert await logs.where().revision() is None
            proxy.cut()
            proxy.release()
            assert await logs.where().revision() not in (None, before)
            proxy.hold()
            asking = asyncio.ensure_future(logs.where().revision())
            for _ in range(5):
                await asyncio.sleep(0)  # it has begun to read
            assert not asking.done()
            await logs.origin.detach()
        assert await asking is None
        await engine.dispose()
