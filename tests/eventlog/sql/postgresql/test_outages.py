"""The server restarts, crashes, is replaced or restored: streams go on or are reset."""

import asyncio
import shutil
import signal
import subprocess
import sys
from contextlib import suppress

import psycopg
import pytest
from sqlalchemy import event

from headwater.errors import SourceUnavailableError
from headwater.eventlog import START, open_log
from headwater.eventlog.sql import SqlLog
from headwater.testing._eventlog import Recorder
from support.postgres import Postgres
from support.until import outside, succeeds, until

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def own():
    """A server that these tests may stop."""
    server = Postgres()
    server.create()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def place(own):
    if not own.running:
        own.start()
    name = own.database()
    yield f"postgresql://postgres@/{name}?host={own.folder}"
    own.drop(name)


async def appended(log, n):
    """Append with a key until it is acknowledged, as a caller does."""
    return await succeeds(lambda: log.append("t", {"n": n}, key=f"k{n}"), SourceUnavailableError)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["restart", "crash"])
async def test_a_server_that_goes_away_and_comes_back_costs_nothing(own, place, how):
    """Streams stay open; none is reset, nothing is lost and nothing comes twice."""
    async with open_log(place) as log, open_log(place) as other:
        follower = Recorder(20)
        await log.follow("t", follower)
        for n in range(5):
            await appended(other, 10 * n)
            own.stop(how)
            with pytest.raises(SourceUnavailableError):
                await log.append("t", {"n": "lost"})
            with pytest.raises(SourceUnavailableError):
                await log.bounds("t")
            with pytest.raises(SourceUnavailableError):
                await log.follow("t", Recorder())
            own.start()
            await appended(other, 10 * n + 1)
            await follower.count(2 * n + 2)
        kept = (await log.read("t", START, 100)).records
        assert follower.records == list(kept)
        assert [one.data["n"] for one in kept] == [0, 1, 10, 11, 20, 21, 30, 31, 40, 41]
        assert not follower.resets


async def test_writers_through_crashes_lose_and_double_nothing(own, place):
    """What was acknowledged is there, once, at the log and at every follower."""
    async with open_log(place) as log, open_log(place) as other:
        follower, ended = Recorder(30), asyncio.Event()
        await log.follow("t", follower)

        async def write(first):
            n = first
            while not ended.is_set():
                await appended(other, n)
                n += 3
            return n

        writing = asyncio.gather(*(write(first) for first in range(3)))
        for turn in range(4):
            await follower.count(20 * (turn + 1))
            own.stop(signal.SIGQUIT)
            own.start()
        ended.set()
        ends = await writing
        kept = []
        while page := (await log.read("t", kept[-1].offset if kept else START, 1000)).records:
            kept += page
        for first, end in enumerate(ends):
            mine = [one.data["n"] for one in kept if one.data["n"] % 3 == first]
            assert mine == list(range(first, end, 3))
        await follower.count(len(kept))
        assert follower.records == kept
        assert not follower.resets


APPEND = """
import asyncio, sys
from headwater.eventlog import open_log

async def append():
    async with open_log(sys.argv[1]) as log:
        await log.append("t", {"n": 1})

asyncio.run(append())
"""


async def test_transaction_ids_that_a_crash_gives_again_hide_nothing():
    """Of what is rolled back nothing need be on disk, so its ids are used anew afterwards."""
    server = Postgres(wal_writer_delay="10s")
    try:
        server.create()
        server.start()
        place = f"postgresql://postgres@/postgres?host={server.folder}"
        async with open_log(place) as log:
            follower = Recorder(10)
            await log.append("t", {"n": 0})
            await log.follow("t", follower)
            conninfo = server.conninfo("postgres")
            async with await psycopg.AsyncConnection.connect(conninfo) as connection:
                for _ in range(50):
                    used = await connection.execute("SELECT pg_current_xact_id()::text::int")
                    (last,) = await used.fetchone()
                    await connection.rollback()
            looks = []
            event.listen(
                log.engine.sync_engine, "before_cursor_execute", lambda *args: looks.append(args[2])
            )
            await until(lambda: any("changed" in sql for sql in looks))
            server.stop(signal.SIGQUIT)
            server.start()
            # Another process appends before this one's loop has a turn.
            with psycopg.connect(conninfo) as connection:
                again = connection.execute("SELECT pg_current_xact_id()::text::int").fetchone()
                assert again[0] < last - 20, "the ids were not given again"
            subprocess.run([sys.executable, "-c", APPEND, place], check=True)
            await follower.count(1)
    finally:
        server.remove()


async def test_a_fresh_server_in_its_place_is_another_log(own):
    """Fail-over to an empty one: streams are reset once and go on with it."""
    place = f"postgresql://postgres@/postgres?host={own.folder}"
    async with open_log(place) as log:
        follower = Recorder(20)
        await log.append("t", [{"n": 1}, {"n": 2}])
        before = await log.follow("t", follower)
        own.stop(signal.SIGQUIT)
        shutil.rmtree(own.data)
        own.create()
        own.start()
        await follower.until(lambda one: bool(one.resets), "a reset")
        assert follower.resets[0][0] == "unknown"
        assert follower.resets[0][1].epoch != before.epoch
        (record,) = await log.append("t", {"n": 3})
        assert str(record.offset) == "1"
        await follower.count(1)
        assert follower.records == [record]
        assert len(follower.resets) == 1


def by_hand(own, *statements):
    with psycopg.connect(own.conninfo("postgres"), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


async def test_a_backup_that_was_put_back_resets_followers(own, place):
    """A copy of the database from before has all rows, and is another life."""
    name = place.partition("@/")[2].partition("?")[0]
    async with open_log(place) as log:
        await log.append("t", {"n": 1})
    by_hand(own, f"CREATE DATABASE backup TEMPLATE {name}")
    async with open_log(place) as log:
        follower = Recorder(20)
        before = await log.follow("t", follower)
        await log.append("t", [{"n": 2}, {"n": 3}])
        await follower.count(2)
        by_hand(
            own,
            f"DROP DATABASE {name} WITH (FORCE)",
            f"ALTER DATABASE backup RENAME TO {name}",
        )
        await follower.until(lambda one: bool(one.resets), "a reset")
        assert follower.resets[0][0] == "unknown"
        (record,) = await log.append("t", {"n": "anew"})
        await follower.count(3)
        assert follower.records[-1] == record
        assert (await log.bounds("t")).epoch != before.epoch


async def test_events_of_another_servers_transactions_are_not_new_for_ever(place):
    """A dump carries the numbers of transactions that are still to come on the new server."""
    async with open_log(place) as log:
        await log.append("t", {"n": 1})
    async with await psycopg.AsyncConnection.connect(place, autocommit=True) as connection:
        await connection.execute("UPDATE headwater_events SET xid = '999999999999'")
        async with open_log(place) as log:
            assert isinstance(log, SqlLog)
            cursor = await connection.execute("SELECT xid::text FROM headwater_events")
            assert await cursor.fetchall() == [("0",)]
            follower = Recorder()
            await log.follow("t", follower)
            await log.append("t", {"n": 2})
            await follower.count(1)
            assert follower.records[0].data == {"n": 2}


async def replicated(standby, place):
    """Until it has the tables of the log."""
    name = psycopg.conninfo.conninfo_to_dict(place)["dbname"]
    there = "SELECT to_regclass('headwater_events') IS NOT NULL"

    def copied():
        with (
            suppress(psycopg.OperationalError),
            psycopg.connect(standby.conninfo(name), autocommit=True) as connection,
        ):
            return connection.execute(there).fetchone()[0]

    await outside(copied)


async def test_a_standby_can_be_followed_and_takes_no_appends(own, place):
    """It does not say which transactions run; reading stays exact all the same."""
    standby = Postgres()
    try:
        standby.run("pg_basebackup", "-h", own.folder, "-U", "postgres", "-D", standby.data,
                    "-R", "-X", "stream", "-c", "fast")  # fmt: skip
        async with open_log(place) as log:
            await log.append("t", {"n": 0})
            standby.start()
            await replicated(standby, place)
            async with open_log(place.replace(str(own.folder), str(standby.folder))) as copy:

                async def come():
                    return (await copy.read("t", START, 1)).records

                await outside(come)
                follower = Recorder(20)
                await copy.follow("t", follower)
                with pytest.raises(SourceUnavailableError, match="takes no writes"):
                    await copy.append("t", {"n": "no"})
                async with log.engine.connect() as late:
                    await log.append("u", {"n": 0}, connection=late)
                    await copy.follow("u", follower)
                    for n in range(1, 4):
                        await log.append("t", {"n": n})
                        await follower.count(n)
                    await late.commit()
                await follower.count(4)
                assert [one.data["n"] for one in follower.records] == [1, 2, 3, 0]
                assert not follower.resets
    finally:
        standby.remove()


async def test_closing_ends_a_reader_whose_server_is_away(own, place):
    """A shut-down does not wait for a back-off."""
    log = open_log(place)
    await log.follow("t", Recorder())
    own.stop()
    with pytest.raises(SourceUnavailableError):
        await log.follow("t", Recorder())
    async with asyncio.timeout(5):
        await log.close()
    own.start()
