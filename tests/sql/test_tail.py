"""The tail feeds every stream of a table: it must be prompt, exact and hard to kill."""

import asyncio
import logging
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from sqlalchemy import create_engine, event, insert, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import StaticPool

from headwater.errors import SourceUnavailableError, UsageError
from headwater.sql import Table, configure_sqlite, sqlite_engine
from support.tables import Base, Client, Log, Recorder
from support.until import until


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


async def add(engine, *users):
    async with engine.begin() as connection:
        await connection.execute(insert(Log), [{"user_id": user} for user in users])


def ids(sink):
    return [change.item["id"] for change in sink.changes]


async def test_a_commit_in_this_process_is_handed_over_at_once(engine, sink):
    async with AsyncSession(engine) as session:
        session.add_all([Log(user_id=1, message="a"), Log(user_id=2, message="b")])
        await session.commit()
    await sink.count(2)
    first = sink.changes[0]
    assert first.item == {
        "id": 1,
        "user_id": 1,
        "level": "info",
        "message": "a",
        "created_at": None,
    }
    assert first.values is first.item
    assert (str(first.place), first.removed, first.key) == ("1", False, None)
    assert str(sink.heads[-1]) == "2"


async def test_a_rollback_is_not_told(engine, sink):
    async with engine.connect() as connection:
        await connection.execute(insert(Log), [{"user_id": 1}])
        await connection.rollback()
    await add(engine, 2)
    await sink.count(1)
    assert [change.item["user_id"] for change in sink.changes] == [2]


async def test_a_connection_that_is_kept_wakes_with_its_next_statement(engine, sink):
    async with engine.connect() as connection:
        await connection.execute(insert(Log), [{"user_id": 1}])
        await connection.commit()
        await connection.execute(text("SELECT 1"))
        await sink.count(1)


async def test_four_writers_with_rollbacks_are_told_once_each_in_one_order(engine, sink):
    async def write(writer):
        for batch in range(15):
            async with AsyncSession(engine) as session:
                session.add_all([Log(user_id=writer, message=str(batch)) for _ in range(5)])
                if batch % 4 == 3:
                    await session.flush()
                    await session.rollback()
                else:
                    await session.commit()

    await asyncio.gather(*(write(writer) for writer in range(4)))
    await sink.count(4 * 12 * 5)
    async with engine.connect() as connection:
        stored = await connection.scalars(text("SELECT id FROM logs ORDER BY headwater_change"))
        assert ids(sink) == list(stored)
    # A transaction's rows stay together.
    runs = [(c.item["user_id"], c.item["message"]) for c in sink.changes]
    assert all(len(set(runs[at : at + 5])) == 1 for at in range(0, len(runs), 5))


PLAIN = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], timeout=10)
for number in range(int(sys.argv[2])):
    sys.stdin.readline()
    database.execute("INSERT INTO logs (user_id) VALUES (?)", (number,))
    database.commit()
    print(time.time(), flush=True)
"""


async def test_plain_sql_of_another_process_is_noticed(path, sink):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PLAIN, str(path), "7", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    delays = []
    for number in range(1, 8):
        process.stdin.write(b"\n")
        committed = float(await process.stdout.readline())
        await sink.count(number)
        delays.append(time.time() - committed)
    await process.communicate()
    assert sorted(delays)[3] < 0.3


async def test_one_thread_watches_a_file_while_anything_of_it_is_followed(engine, sink):
    def watching():
        return [t for t in threading.enumerate() if t.name.startswith("headwater watch")]

    clients = Table(engine, Client)
    await clients.origin.attach(Recorder())
    assert len(watching()) == 1
    await clients.origin.detach()
    assert len(watching()) == 1
    another = Table(engine, Log)
    await another.origin.attach(Recorder())
    await another.origin.detach()
    assert len(watching()) == 1


async def test_nothing_is_left_after_the_last_detach(engine):
    before = set(threading.enumerate())
    table = Table(engine, Log)
    for _ in range(3):
        await table.origin.attach(Recorder())
        await table.origin.detach()
        await table.origin.detach()
    # A thread that was told to end needs a moment to do so.
    await until(
        lambda: not [t for t in set(threading.enumerate()) - before if "headwater" in t.name]
    )
    assert not [t for t in asyncio.all_tasks() if "headwater" in t.get_name()]


async def test_attaching_is_idempotent_and_refuses_a_second_hub(logs, engine, sink):
    await add(engine, 1)
    await sink.count(1)
    places = await asyncio.gather(*(logs.origin.attach(sink) for _ in range(3)))
    assert [str(place) for place in places] == ["1"] * 3
    with pytest.raises(UsageError, match="sink already"):
        await logs.origin.attach(Recorder())


async def test_what_is_committed_while_attaching_is_not_lost(engine):
    table = Table(engine, Log)
    for _ in range(10):
        sink = Recorder()
        place, _ = await asyncio.gather(table.origin.attach(sink), add(engine, 1))
        async with engine.connect() as connection:
            last = await connection.scalar(text("SELECT max(headwater_change) FROM logs"))
        await sink.count(last - place.number)
        await table.origin.detach()
        assert [c.place.number for c in sink.changes] == list(range(place.number + 1, last + 1))


async def test_a_busy_table_does_not_make_the_tails_of_others_read(engine, sink):
    statements = []
    clients = Table(engine, Client)
    await clients.origin.attach(Recorder())
    await add(engine, 1)
    await sink.count(1)
    event.listen(
        engine.sync_engine, "before_cursor_execute", lambda c, cur, sql, *_: statements.append(sql)
    )
    for _ in range(5):
        await add(engine, 1)
    await sink.count(6)
    await clients.origin.detach()
    reads = [sql for sql in statements if sql.startswith("SELECT")]
    # Its first look at the table may still come.
    assert len([sql for sql in reads if "FROM headwater_removals" in sql]) <= 1
    assert len(reads) <= 10


async def test_a_large_gap_comes_in_batches(engine, sink):
    await add(engine, *range(1700))
    await sink.count(1700)
    assert ids(sink) == list(range(1, 1701))
    assert [str(head.number) for head in sink.heads[:2]] == ["500", "1000"]


async def test_a_file_that_is_away_makes_streams_wait(engine, path, logs, sink, caplog):
    await add(engine, 1)
    await sink.count(1)
    away = path.with_name("away.db")
    path.rename(away)
    with pytest.raises(SourceUnavailableError):
        await logs.where().page(5)
    logs.origin.read_on()
    await until(lambda: caplog.records)
    assert not path.exists()  # not made anew, empty
    away.rename(path)
    await add(engine, 2)
    await sink.count(2)
    assert ids(sink) == [1, 2]
    assert not sink.resets
    said = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert [("cannot be read" in r.message, "again" in r.message) for r in said] == [
        (True, False),
        (False, True),
    ]


async def test_rows_written_meanwhile_by_another_program_follow(engine, path, sink):
    path.rename(path.with_name("away.db"))
    path.with_name("away.db").rename(path)
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO logs (user_id) VALUES (3)")
    database.close()
    await sink.count(1)


async def test_another_file_in_its_place_is_a_reset(engine, path, logs, sink, tmp_path):
    await add(engine, 1)
    await sink.count(1)
    other = sqlite_engine(f"sqlite:///{tmp_path / 'other.db'}")
    async with other.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await add(other, 5, 6, 7)
    await other.dispose()
    (tmp_path / "other.db").rename(path)
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    await sink.until(lambda sink: sink.resets)
    assert [(reason, str(head)) for reason, head in sink.resets] == [("unknown", "3")]
    await add(engine, 8)
    await sink.count(2)
    assert sink.changes[-1].item["user_id"] == 8


async def test_a_database_set_back_is_a_reset(engine, sink):
    await add(engine, 1, 2, 3)
    await sink.count(3)
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM logs WHERE id = 3"))
        await connection.execute(text("UPDATE headwater_tables SET last = 2 WHERE name = 'logs'"))
    await sink.until(lambda sink: sink.resets)
    assert [(reason, str(head)) for reason, head in sink.resets] == [("unknown", "2")]


async def test_trimmed_past_the_reader_is_a_reset(engine, logs, sink):
    await add(engine, 1)
    await sink.count(1)
    async with engine.begin() as connection:
        await connection.execute(insert(Log), [{"user_id": 1}] * 5)
        await connection.execute(text("DELETE FROM logs WHERE id < 4"))
        await connection.execute(text("UPDATE headwater_tables SET floor = 3 WHERE name = 'logs'"))
    await sink.until(lambda sink: sink.resets)
    assert [(reason, str(head)) for reason, head in sink.resets] == [("expired", "6")]


async def test_a_locked_database_is_an_outage(path):
    engine = configure_sqlite(create_async_engine(f"sqlite+aiosqlite:///{path}"), busy_timeout=0.02)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    table, sink = Table(engine, Log), Recorder()
    with pytest.raises(SourceUnavailableError, match="locked"):
        await table.where().page(1)
    with pytest.raises(SourceUnavailableError, match="locked"):
        await table.origin.attach(sink)
    await until(
        lambda: not [t for t in threading.enumerate() if t.name.startswith("headwater watch")]
    )
    database.execute("COMMIT")
    database.close()
    await table.origin.attach(sink)
    await add(engine, 2)
    await sink.count(1)
    await table.origin.detach()
    await engine.dispose()


@pytest.mark.parametrize("options", [{}, {"poolclass": StaticPool}])
async def test_in_memory(options):
    engine = create_async_engine("sqlite+aiosqlite:///:memory:", **options)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    table, sink = Table(engine, Log), Recorder()
    await table.origin.attach(sink)
    await add(engine, 1, 2)
    await sink.count(2)
    await until(
        lambda: not [t for t in threading.enumerate() if t.name.startswith("headwater watch")]
    )
    await table.origin.detach()
    await engine.dispose()


async def test_a_registered_engine_wakes_from_its_own_thread(engine, path):
    other = configure_sqlite(create_engine(f"sqlite:///{path}"))
    table, sink = Table(engine, Log, listen=[other]), Recorder()
    await table.origin.attach(sink)

    def write():
        with other.begin() as connection:
            connection.execute(insert(Log), [{"user_id": 1}])

    await asyncio.to_thread(write)
    await sink.count(1)
    await table.origin.detach()
    other.dispose()


async def test_a_fault_in_the_program_is_logged_and_survived(logs, engine, sink, caplog):
    original, broken = logs.reader.batch, True

    async def batch(*arguments, **options):
        if broken:
            raise RuntimeError("a bug")
        return await original(*arguments, **options)

    logs.reader.batch = batch
    await add(engine, 1)
    await until(lambda: caplog.records)
    broken = False
    await sink.count(1)
    assert "cannot be followed" in caplog.records[0].message


async def test_a_removal_carries_what_the_row_had(engine):
    table, sink = Table(engine, Client), Recorder()
    await table.origin.attach(sink)
    async with AsyncSession(engine, expire_on_commit=False) as session:
        client = Client(id="a", user_id=7, team_id=3, name="x")
        session.add(client)
        await session.commit()
        await sink.count(1)
        client.user_id = 8
        await session.commit()
        await sink.count(3)
        await session.delete(client)
        await session.commit()
    await sink.count(4)
    shown = [(c.removed, c.key, c.values["user_id"], c.values["team_id"]) for c in sink.changes]
    assert shown == [
        (False, {"id": "a"}, 7, 3),
        (True, {"id": "a"}, 7, 3),
        (False, {"id": "a"}, 8, 3),
        (True, {"id": "a"}, 8, 3),
    ]
    await table.origin.detach()


async def test_a_file_that_was_moved_away_is_noticed_while_the_pool_still_has_it(path):
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    logs, sink = Table(engine, Log), Recorder()
    await logs.origin.attach(sink)
    await logs.where().page(1)
    async with engine.connect() as connection, engine.connect() as another:
        for one in (connection, another):
            await one.execute(text("SELECT * FROM logs"))
    away = path.with_name("away")
    path.rename(away)
    # A further connection of the pool makes a new file, which is empty.
    with pytest.raises(
        SourceUnavailableError, match="cannot be opened; is it there|a table is missing"
    ):
        await logs.where().page(1)
    away.rename(path)
    await add(engine, 1)
    await sink.count(1)
    await logs.origin.detach()
    await engine.dispose()
