"""``headwater relay``: refusals, ends, and what other processes do with it."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from decimal import Decimal

import pytest
import sqlalchemy as sa

from headwater.eventlog import START, open_log
from headwater.sql import sqlite_engine
from headwater.sql.alembic import add_tracking
from support.command import run, started, url_of
from support.relays import Moved
from support.tables import Base
from support.until import PAUSE, outside

pytestmark = pytest.mark.long


@pytest.fixture
async def moved(tmp_path):
    engine = sqlite_engine(url_of(tmp_path / "table.db"))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with open_log(url_of(tmp_path / "log.db")) as log:
        yield Moved(engine, log)
    await engine.dispose()


@pytest.fixture
def options(tmp_path):
    """A command line that works."""
    return {
        "--database": url_of(tmp_path / "table.db"),
        "--table": "logs",
        "--event-log": url_of(tmp_path / "log.db"),
        "--topic": "moved",
        "--lease": "0.5",
    }


def line(options):
    return ["relay", *(part for pair in options.items() for part in pair)]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--table": "orders"}, "there is no table 'orders' in the database"),
        ({"--table": "headwater_tables"}, "table 'headwater_tables' is not tracked: call"),
        ({"--database": "sqlite:///nowhere.db"}, "there is no database file 'nowhere.db'"),
        ({"--database": "sqlite:///."}, "there is no database file '.'"),
        ({"--database": "sqlite:///"}, "a database in SQLite is given as sqlite:///path"),
        ({"--database": "mysql://x:secret@y/z"}, "mysql:// is no database whose tables"),
        ({"--event-log": "memory://"}, "loses its events when the process ends"),
        ({"--event-log": "kafka://x:secret@y"}, "event log kafka://: this version has"),
        ({"--topic": "a b"}, "topic 'a b': a topic's name has"),
        ({"--name": "a b"}, "relay 'a b': a relay's name has"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(options, changed, said):
    engine = sa.create_engine(options["--database"])
    Base.metadata.create_all(engine)
    engine.dispose()
    code, output = run(*line(options | changed))
    assert code == 1
    assert said in output
    assert "secret" not in output
    assert len(output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--order": "random"}, "'random' is not one of 'prompt'"),
        ({"--on-reset": "hope"}, "'hope' is not one of 'stop'"),
        ({"--lease": "0"}, "'--lease'"),
    ],
)
def test_wrong_options_are_usage_errors(options, changed, said):
    code, output = run(*line(options | changed))
    assert code == 2
    assert said in output


def test_what_is_missing_is_named():
    code, output = run("relay", "--table", "logs")
    assert code == 2
    assert "--database" in output


async def test_it_goes_on_until_it_is_told_to_end(moved, options):
    """And tells how much it did; the next one may begin at once."""
    await moved.add("a")
    for number, message in ((signal.SIGTERM, "b"), (signal.SIGINT, "c")):
        with started(*line(options)) as process:
            await asyncio.to_thread(process.until, "into topic moved")
            await moved.add(message)
            await moved.until(*"abc"[: "abc".index(message) + 1])
            assert await asyncio.to_thread(process.end, number) == 0
            await asyncio.to_thread(process.until, "relayed")
        assert (await moved.state()).holder is None


@pytest.mark.long
async def test_a_second_signal_ends_it_without_a_traceback(moved, options):
    """`timeout` sends two at once, and people press Ctrl-C again."""
    with started(*line(options)) as process:
        await asyncio.to_thread(process.until, "into topic moved")
        os.kill(process.pid, signal.SIGTERM)
        await asyncio.to_thread(process.end)
        assert "Traceback" not in process.errors()


async def test_a_relay_that_cannot_go_on_says_what_to_do(moved, options, tmp_path):
    await moved.add("a")
    with started(*line(options)) as process:
        await moved.until("a")
        await asyncio.to_thread(process.end)
    other = options | {"--event-log": url_of(tmp_path / "other.db")}
    command = [sys.executable, "-m", "headwater", *line(other)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert done.returncode == 1
    sentence = done.stderr.splitlines()[-1]
    assert "Relay moved stopped: the event log (sqlite) is not the one" in sentence
    assert "--on-reset repeat" in sentence


async def stop_between_writes(process, file):
    """A process that is stopped in a transaction would keep the lock that all writers need."""
    while True:
        os.kill(process.pid, signal.SIGSTOP)
        try:
            with closing(sqlite3.connect(file, timeout=0)) as database:
                database.execute("BEGIN IMMEDIATE")
                return
        except sqlite3.OperationalError:
            os.kill(process.pid, signal.SIGCONT)
            await asyncio.sleep(PAUSE)


async def test_a_relay_that_was_stopped_and_woken_up_appends_nothing_twice(
    moved, options, tmp_path
):
    """SIGSTOP is what a paused machine looks like: the other one works on, and the first waits."""
    with started(*line(options)) as first:
        await moved.add("a")
        await moved.until("a")
        with started(*line(options)) as second:
            await stop_between_writes(first, tmp_path / "table.db")
            await moved.add("b")
            await moved.until(*"ab")
            os.kill(first.pid, signal.SIGCONT)
            await moved.add("c")
            await moved.until(*"abc")
            await outside(lambda: "is held by another process" in first.errors())
            assert await asyncio.to_thread(second.end) == 0
            await moved.add("d")
            await moved.until(*"abcd")


async def test_it_waits_for_a_server_that_is_not_there_yet(options):
    """Whoever starts both at once need not say in which order."""
    nowhere = "postgresql://postgres@127.0.0.1:1/app?connect_timeout=1"
    with started(*line(options | {"--database": nowhere})) as process:
        await outside(lambda: "trying again" in process.errors(), 30)
        assert await asyncio.to_thread(process.end) == 0


KINDS = """CREATE TABLE kinds (id integer primary key, price numeric(10, 2), at timestamptz,
    day date, ref uuid, more jsonb, tags text[], yes boolean, address inet, raw bytea)"""
A_ROW = """INSERT INTO kinds VALUES (1, 1.50, '2026-01-02 03:04:05+01', '2026-01-02',
    '00000000-0000-0000-0000-000000000001', '{"a": [1]}', '{x,y}', true, NULL, 'abc')"""


async def test_a_row_of_postgresql_as_json(postgres, tmp_path, options):
    name = postgres.database()
    engine = sa.create_engine(postgres.url(name))
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE SCHEMA shop")
            connection.exec_driver_sql(KINDS.replace("kinds", "shop.kinds"))
            add_tracking(connection, "kinds", schema="shop", notify=False)
            connection.exec_driver_sql(A_ROW.replace("kinds", "shop.kinds"))
        address = f"postgresql://postgres@/{name}?host={postgres.folder}"
        with started(*line(options | {"--database": address, "--table": "shop.kinds"})):
            async with open_log(options["--event-log"]) as log:

                async def moved():
                    return (await log.read("moved", START, 9)).records

                records = await outside(moved, 30)
    finally:
        engine.dispose()
        postgres.drop(name)
    assert records[0].data == {
        "id": 1,
        "price": "1.50",
        "at": "2026-01-02T02:04:05Z",
        "day": "2026-01-02",
        "ref": "00000000-0000-0000-0000-000000000001",
        "more": {"a": [1]},
        "tags": ["x", "y"],
        "yes": True,
        "address": None,
        "raw": "abc",
    }
    assert Decimal(records[0].data["price"]) == Decimal("1.50")


async def test_a_row_of_sqlite_as_json(moved, options):
    await moved.run(
        "CREATE TABLE kinds (id INTEGER PRIMARY KEY, price NUMERIC, at DATETIME, j JSON)"
    )
    async with moved.engine.begin() as connection:
        await connection.run_sync(add_tracking, "kinds", keyed=True, filters=["price"])
    insert = "INSERT INTO kinds (id, price, at, j) VALUES (1, 1.5, '2026-01-02 03:04:05', '[1]')"
    await moved.run(insert)
    with started(*line(options | {"--table": "kinds"})):
        await moved.count(1)
        await moved.run("DELETE FROM kinds")
        await moved.count(2)
    assert await moved.events() == [
        {"id": 1, "price": 1.5, "at": "2026-01-02T03:04:05", "j": [1]},
        {"_removed": {"id": 1}},
    ]
