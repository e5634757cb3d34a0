"""A row of another program must not wait where Linux reports its write."""

import asyncio
import os
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.eventlog import open_log
from headwater.eventlog.sql import SqlLog
from headwater.sql import Table
from headwater.sql.sqlite._file_watch import Schedule
from headwater.testing._eventlog._harness import Recorder as LogRecorder
from support.tables import Base, Client, Log, Recorder
from support.until import until

linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
INSERT = "INSERT INTO logs (user_id) VALUES (1)"


@pytest.fixture
def rare(monkeypatch):
    """The look that comes in any case comes too late for any test."""
    monkeypatch.setattr("headwater.sql.sqlite._file_watch.INTERVAL", 600.0)


@pytest.fixture
def no_inotify(monkeypatch):
    def none(_paths):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("headwater.sql.sqlite._file_watch.Inotify", none)


@pytest.fixture
async def sink(engine):
    table = Table(engine, Log)
    sink = Recorder()
    await table.origin.attach(sink)
    yield sink
    await table.origin.detach()


def commit(path, statement=INSERT):
    """As another program would: no engine of this process knows of it."""
    with closing(sqlite3.connect(path, timeout=10)) as database:
        database.execute(statement)
        database.commit()


def open_descriptors():
    """What the watch has open."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            found.append(os.readlink(each))
        except OSError:
            continue
    return sorted(name for name in found if "inotify" in name or "eventfd" in name)


@linux
async def test_a_row_of_another_process_is_noticed_by_its_write(rare, path, sink):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"import sqlite3\nd = sqlite3.connect({str(path)!r})\nd.execute({INSERT!r})\nd.commit()",
    )
    assert await process.wait() == 0
    await sink.count(1)


@linux
async def test_every_commit_gives_a_hint(rare, path, sink):
    """Also a checkpoint that empties the write-ahead log, and what comes after it."""
    for number in range(1, 20):
        commit(path)
        if number % 5 == 0:
            commit(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        await sink.count(number)


@linux
async def test_a_transaction_is_noticed_when_it_ends_not_when_it_writes(rare, path, sink):
    """What it writes before spills into the file: a hint with nothing to be seen."""
    with closing(sqlite3.connect(path, timeout=10)) as database:
        database.execute("PRAGMA cache_size = 1")
        for _ in range(200):
            database.execute("INSERT INTO logs (user_id, message) VALUES (1, ?)", ("x" * 500,))
        await asyncio.sleep(0)
        assert not sink.changes
        database.commit()
    await sink.count(200)


@linux
async def test_a_database_without_a_write_ahead_log_is_watched_and_one_that_gets_it(rare, path):
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    table, sink = Table(engine, Log), Recorder()
    await table.origin.attach(sink)
    commit(path)
    await sink.count(1)
    assert not Path(f"{path}-wal").exists()
    commit(path, "PRAGMA journal_mode = WAL")
    for number in range(2, 6):
        commit(path)
        await sink.count(number)
    await table.origin.detach()
    await engine.dispose()


@linux
async def test_a_file_that_was_replaced_is_watched_and_its_new_log(rare, path, sink, tmp_path):
    commit(path)
    await sink.count(1)
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as now, closing(sqlite3.connect(other)) as copy:
        now.backup(copy)
    commit(other)
    for end in ("-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)
    other.replace(path)
    await sink.count(2)
    for number in range(3, 6):
        commit(path)
        await sink.count(number)


@linux
async def test_a_file_that_was_replaced_has_a_moment_to_lose_the_log_of_the_old_one(
    rare, monkeypatch, engine, path, sink, tmp_path
):
    """Who opened it with that log would see no commit any more."""
    monkeypatch.setattr("headwater.sql.sqlite._file_watch.SETTLING", 1.0)
    commit(path)
    await sink.count(1)
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as now, closing(sqlite3.connect(other)) as copy:
        now.backup(copy)
    commit(other)
    seen, failed = [], Schedule.failed
    monkeypatch.setattr(
        Schedule, "failed", lambda self, *wait: (seen.append(1), failed(self, *wait))
    )
    other.replace(path)
    await until(lambda: seen)
    for end in ("-wal", "-shm"):
        Path(f"{path}{end}").unlink()
    await sink.count(2)
    for number in range(3, 6):
        commit(path)
        await sink.count(number)


async def test_one_thread_serves_the_tables_and_the_log_of_a_file(engine, path):
    """It wakes each reader for its own commits, also before the log has tables."""
    before = {thread.name for thread in threading.enumerate()}
    log = SqlLog(engine)
    tables, records = Recorder(), LogRecorder()
    logs, clients = Table(engine, Log), Table(engine, Client)
    await logs.origin.attach(tables)
    await clients.origin.attach(Recorder())
    commit(path)
    await tables.count(1)
    await log.follow("t", records)
    async with open_log(f"sqlite:///{path}") as other:
        await other.append("t", {"n": 1})
    await records.count(1)
    commit(path)
    await tables.count(2)
    watches = [t.name for t in threading.enumerate() if "headwater watch" in t.name]
    assert len(set(watches) - before) == len(watches) == 1
    await log.close()
    await logs.origin.detach()
    await clients.origin.detach()


async def test_without_hints_the_look_that_comes_anyway_finds_all(no_inotify, engine, path):
    table, sink = Table(engine, Log), Recorder()
    before = open_descriptors() if sys.platform == "linux" else []
    await table.origin.attach(sink)
    assert not before or open_descriptors() == before
    for number in range(1, 4):
        commit(path)
        await sink.count(number)
    await table.origin.detach()


@linux
async def test_descriptors_are_given_back(engine, path):
    before = open_descriptors()
    table = Table(engine, Log)
    for _ in range(3):
        sink = Recorder()
        await table.origin.attach(sink)
        assert len(open_descriptors()) > len(before)
        commit(path)
        await sink.count(1)
        await table.origin.detach()
        await until(lambda: open_descriptors() == before)


async def test_a_read_that_comes_to_what_was_noticed_meanwhile_is_not_followed_by_another(
    rare, no_inotify, monkeypatch, engine
):
    """A commit of this process may be noticed twice: by itself and by its write."""
    table, sink = Table(engine, Log), Recorder()
    read, reads, go_on = table.reader.batch, [], asyncio.Event()

    async def batch(*given, **named):
        found = await read(*given, **named)
        reads.append(found.head)
        await go_on.wait()
        return found

    monkeypatch.setattr(table.reader, "batch", batch)
    await table.origin.attach(sink)
    go_on.set()
    await until(lambda: len(reads) == 1)
    for number in (1, 2, 3):
        go_on.clear()
        async with engine.begin() as connection:
            await connection.execute(insert(Log), [{"user_id": 1}])
        await until(lambda number=number: len(reads) > number)
        table.origin.reach(reads[-1])
        go_on.set()
        await sink.count(number)
    assert [place.number for place in reads] == [0, 1, 2, 3]
    await table.origin.detach()
