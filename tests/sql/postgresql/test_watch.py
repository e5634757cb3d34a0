"""Other programs' commits are noticed, also after the connection that listens was lost."""

import asyncio
import time
from functools import partial

import psycopg
import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.sql import Table, track
from headwater.sql.postgresql import _looks as looks
from headwater.sql.postgresql import _watch as watch
from support.tables import Client, Log, Recorder
from support.until import outside, until


class Quiet(DeclarativeBase):
    pass


@track(notify=False)
class Line(Quiet):
    __tablename__ = "lines"

    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
async def logs(engine):
    table = Table(engine, Log)
    yield table
    await table.origin.detach()


@pytest.fixture
async def sink(logs):
    sink = Recorder()
    await logs.origin.attach(sink)
    return sink


async def listeners(connection):
    found = await connection.execute(
        "SELECT pid FROM pg_stat_activity "
        "WHERE query LIKE 'LISTEN%' AND datname = current_database()"
    )
    return [row[0] for row in await found.fetchall()]


async def listening(connection, without=()):
    """The process that listens, once there is one."""

    async def others():
        return set(await listeners(connection)) - set(without)

    return (await outside(others)).pop()


async def test_a_commit_in_this_process_is_sent_at_once(engine, monkeypatch):
    """Without any notification, by the ORM too."""
    monkeypatch.setattr(watch, "POLL_FIRST", 60)
    async with engine.begin() as connection:
        await connection.run_sync(Quiet.metadata.create_all)
    table, sink = Table(engine, Line), Recorder()
    await table.origin.attach(sink)
    async with AsyncSession(engine) as session:
        session.add(Line())
        await session.commit()
    await sink.count(1)
    await table.origin.detach()


async def test_plain_sql_of_another_program_is_told_at_once(session, sink, monkeypatch):
    writer = await session()
    await listening(writer)
    delays = []
    for number in range(1, 30):
        await writer.execute("INSERT INTO logs (user_id) VALUES (1)")
        began = time.perf_counter()
        await sink.count(number)
        delays.append(time.perf_counter() - began)
    assert sorted(delays)[15] < 0.1


async def test_nothing_is_missed_while_the_listener_is_lost(session, sink):
    writer = await session()
    first = await listening(writer)
    await writer.execute("SELECT pg_terminate_backend(%s)", (first,))
    await writer.execute("INSERT INTO logs (user_id) VALUES (1)")
    await sink.count(1)
    second = await listening(writer, without=[first])
    await writer.execute("INSERT INTO logs (user_id) VALUES (2)")
    await sink.count(2)
    assert second != first


async def test_a_table_that_does_not_notify_is_looked_at(engine, session):
    async with engine.begin() as connection:
        await connection.run_sync(Quiet.metadata.create_all)
    table, sink = Table(engine, Line), Recorder()
    await table.origin.attach(sink)
    writer = await session()
    for number in range(1, 4):
        await writer.execute("INSERT INTO lines DEFAULT VALUES")
        await sink.count(number)
    assert await listeners(writer) == []
    await table.origin.detach()


async def test_looks_become_rare_while_nothing_happens(engine, monkeypatch):
    monkeypatch.setattr(watch, "POLL_FIRST", 0.01)
    monkeypatch.setattr(watch, "POLL_LONGEST", 0.04)
    async with engine.begin() as connection:
        await connection.run_sync(Quiet.metadata.create_all)
    table = Table(engine, Line)
    waits = []
    loop = asyncio.get_running_loop()
    original = loop.call_later
    monkeypatch.setattr(
        loop,
        "call_later",
        lambda delay, *a, **k: (waits.append(delay), original(delay, *a, **k))[1],
    )
    sink = Recorder()
    await table.origin.attach(sink)
    await until(lambda: 0.04 in waits)
    looks = [wait for wait in waits if wait in (0.01, 0.02, 0.04)]
    assert looks[-1] == 0.04
    await table.origin.detach()


async def test_one_connection_listens_for_all_tables(engine, session, sink):
    writer = await session()
    clients = Table(engine, Client)
    await clients.origin.attach(Recorder())
    await listening(writer)
    before = await listeners(writer)
    other = create_async_engine(engine.url)
    again = Table(other, Log)
    await again.origin.attach(Recorder())
    assert await listeners(writer) == before
    assert len(before) == 1
    await again.origin.detach()
    await clients.origin.detach()
    await other.dispose()


async def test_nothing_is_left_after_the_last_detach(engine, session):
    writer = await session()
    table = Table(engine, Log)
    for _ in range(3):
        await table.origin.attach(Recorder())
        await listening(writer)
        await table.origin.detach()
        await table.origin.detach()
        assert not [t for t in asyncio.all_tasks() if "headwater" in t.get_name()]

        async def nobody_listens():
            return not await listeners(writer)

        await outside(nobody_listens)


async def test_a_busy_table_does_not_make_the_tails_of_others_read(engine, session, sink):
    clients = Table(engine, Client)
    await clients.origin.attach(Recorder())
    writer = await session()
    await listening(writer)
    await writer.execute("INSERT INTO logs (user_id) VALUES (1)")
    await sink.count(1)
    statements = []
    event.listen(
        engine.sync_engine, "before_cursor_execute", lambda c, cur, sql, *_: statements.append(sql)
    )
    for number in range(5):
        await writer.execute("INSERT INTO logs (user_id) VALUES (1)")
        await sink.count(2 + number)
    await clients.origin.detach()
    # On a slow machine some looks that are due anyway are among them.
    assert len([sql for sql in statements if "FROM clients" in sql]) < 5
    assert 5 <= len([sql for sql in statements if "FROM logs" in sql]) <= 12


async def test_what_is_committed_while_attaching_is_not_lost(engine):
    table = Table(engine, Log)
    told = []

    async def add():
        async with engine.begin() as connection:
            await connection.execute(insert(Log), [{"user_id": 1}])

    for _ in range(10):
        sink = Recorder()
        place, _ = await asyncio.gather(table.origin.attach(sink), add())
        async with engine.connect() as connection:
            last = await connection.scalar(text("SELECT max(id) FROM logs"))
        page = await table.where().page(100, after=place)
        await sink.count(len(page.changes))
        told += [change.item["id"] for change in sink.changes]
        if not sink.changes:
            told.append(last)
        await table.origin.detach()
    assert told == list(range(1, 11))


async def test_idle_tables_cost_one_statement_for_all(engine, session, monkeypatch):
    """Whatever their number; and a commit that nothing notified wakes them."""
    monkeypatch.setattr(looks, "EVERY", 0.05)
    async with engine.begin() as connection:
        await connection.run_sync(Quiet.metadata.create_all)
    sinks = [Recorder() for _ in range(2)]
    tables = [Table(engine, each) for each in (Log, Client)]
    for table, sink in zip(tables, sinks, strict=True):
        await table.origin.attach(sink)
    writer = await session()
    await listening(writer)
    statements = []
    event.listen(
        engine.sync_engine, "before_cursor_execute", lambda c, cur, sql, *_: statements.append(sql)
    )

    async def idle():
        """Ten looks, and nothing else."""
        statements.clear()
        await until(lambda: len(statements) >= 10, pause=0.01)
        return len({*statements}) == 1 and "pg_trigger" in statements[0]

    await until(idle, 20)
    async with writer.transaction():
        await writer.execute("ALTER TABLE logs DISABLE TRIGGER headwater_logs_wake_insert")
        await writer.execute("INSERT INTO logs (user_id) VALUES (1)")
        await writer.execute("ALTER TABLE logs ENABLE ALWAYS TRIGGER headwater_logs_wake_insert")
    await sinks[0].count(1)
    for table in tables:
        await table.origin.detach()


async def test_engines_whose_connections_a_function_opens(postgres, template, monkeypatch):
    """Their addresses are equal and name no database, as with a provider's connector."""
    monkeypatch.setattr(looks, "EVERY", 60)
    names = [postgres.database(template=template) for _ in range(2)]
    engines, sinks, origins = [], [], []
    for name in names:
        opens = partial(psycopg.AsyncConnection.connect, postgres.conninfo(name))
        engines.append(create_async_engine("postgresql+psycopg://", async_creator=opens))
        origins.append(Table(engines[-1], Log).origin)
        sinks.append(Recorder())
        await origins[-1].attach(sinks[-1])
    await until(lambda: all(each.listening for each in watch._listeners.values()))
    for name, sink in zip(names, sinks, strict=True):
        async with await psycopg.AsyncConnection.connect(postgres.conninfo(name)) as writer:
            await writer.execute("INSERT INTO logs (user_id) VALUES (1)")
        await sink.count(1)
    for origin, engine, name in zip(origins, engines, names, strict=True):
        await origin.detach()
        await engine.dispose()
        postgres.drop(name)
