"""Following on PostgreSQL: late commits, trims, lost connections, and ten thousand topics."""

import asyncio

import psycopg
import pytest
import sqlalchemy as sa

from headwater.eventlog import Retention, open_log
from headwater.eventlog.sql._writer import trim_some
from headwater.eventlog.sql.postgresql import _reader as reader
from headwater.eventlog.sql.postgresql._dialect import PostgresDialect
from headwater.sql.postgresql import _watch as watch
from headwater.testing._eventlog import Recorder
from support.until import until

pytestmark = pytest.mark.long

ADD = (
    "WITH t AS (UPDATE headwater_topics SET latest = latest + 1 WHERE name = 't'"
    " RETURNING id, latest) INSERT INTO headwater_events (topic_id, number, at, size, part, data)"
    " SELECT id, latest, 0, 7, 0, json_build_object('n', latest)::text FROM t"
)


@pytest.fixture
def no_polls(monkeypatch):
    """No commit is found by polling: only a notice or a commit of this process wakes a reader."""
    monkeypatch.setattr(watch, "POLL_FIRST", 600.0)
    monkeypatch.setattr(watch, "POLL_LONGEST", 600.0)
    monkeypatch.setattr(reader, "POLL_ANYWAY", 600.0)


def finds(statements):
    """The statements that find which topics changed."""
    return [one for one in statements if "changed" in one]


TRIM = (
    "DELETE FROM headwater_events WHERE number <= 4",
    "UPDATE headwater_topics SET trimmed = 4",
    "UPDATE headwater_log SET trims = trims + 1",
)


async def reader_ended():
    """Until the log's reader has ended, because nothing is followed."""
    await until(lambda: not any(one.get_name().endswith(": reader") for one in asyncio.all_tasks()))


async def test_a_late_commit_is_delivered_when_it_commits_and_delays_nothing_else(log):
    """One transaction that stays open for long holds up its own topic alone."""
    late, prompt = Recorder(), Recorder()
    await log.follow("late", late)
    await log.follow("prompt", prompt)
    async with log.engine.connect() as connection:
        await log.append("late", {"n": 0}, connection=connection)
        for n in range(20):
            await log.append("prompt", {"n": n})
            await prompt.count(n + 1)
        assert not late.records
        await connection.commit()
    await late.count(1)
    await log.append("late", {"n": 1})
    await late.count(2)
    assert [record.data["n"] for record in late.records] == [0, 1]


async def test_interleaved_transactions_on_many_topics_are_followed_exactly(log):
    """Whatever the order in which they began, wrote and committed."""
    followers = {f"t{n}": Recorder() for n in range(6)}
    for topic, follower in followers.items():
        await log.follow(topic, follower)
    order = [3, 0, 5, 1, 4, 2]
    for turn in range(5):
        connections = [await log.engine.connect() for _ in range(6)]
        for n, connection in enumerate(connections):
            await log.append(f"t{n}", [{"n": turn}, {"n": turn}], connection=connection)
        for place, n in enumerate(order):
            # One in three is rolled back; the others commit in another order than they wrote.
            await (connections[n].rollback() if place % 3 == 2 else connections[n].commit())
            await connections[n].close()
    for place, n in enumerate(order):
        follower = followers[f"t{n}"]
        if place % 3 == 2:
            assert not follower.records
        else:
            await follower.count(10)
            assert [one.offset[0] for one in follower.records] == list(range(1, 11))


async def test_commits_of_this_process_wake_at_once(url, no_polls):
    """Also those of a transaction of the caller's own, and without any notice."""
    from sqlalchemy.ext.asyncio import create_async_engine

    from headwater.eventlog.sql import SqlLog

    engine = create_async_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    async with SqlLog(engine, notify=False) as log:
        follower = Recorder()
        await log.follow("t", follower)
        await log.append("t", {"n": 1})
        await follower.count(1)
        async with log.engine.begin() as connection:
            await log.append("t", {"n": 2}, connection=connection)
        await follower.count(2)
    await engine.dispose()


async def test_commits_of_others_wake_by_notice(url, log, no_polls):
    follower = Recorder()
    await log.follow("t", follower)
    async with open_log(url) as other:
        for n in range(5):
            await other.append("t", {"n": n})
            await follower.count(n + 1)
        async with other.engine.begin() as connection:
            await other.append("t", {"n": 5}, connection=connection)
        await follower.count(6)


async def test_commits_of_others_are_found_without_any_notice(log, session):
    """A program in plain SQL, or one that was killed before it could send its notice."""
    follower = Recorder()
    await log.append("t", {"n": 1})
    await log.follow("t", follower)
    other = await session()
    await other.execute(ADD)
    await follower.count(1)
    async with other.transaction():
        await other.execute(ADD)
        await other.execute(ADD)
    await follower.count(3)
    assert [record.data["n"] for record in follower.records] == [2, 3, 4]


async def test_a_listener_that_was_killed_is_there_again_and_nothing_is_missed(
    url, log, session, monkeypatch
):
    monkeypatch.setattr(reader, "POLL_ANYWAY", 600.0)
    follower = Recorder()
    await log.follow("t", follower)
    admin = await session()
    async with open_log(url) as other:
        for n in range(4):
            async with asyncio.timeout(10):
                killed = False
                while not killed:
                    cursor = await admin.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE query LIKE 'LISTEN%' AND datname = current_database()"
                    )
                    killed = cursor.rowcount > 0
            await other.append("t", {"n": n})
            await follower.count(n + 1)
    assert [record.data["n"] for record in follower.records] == [0, 1, 2, 3]
    assert not follower.resets


async def test_an_unfollowed_topic_is_not_read(log, statements):
    follower = Recorder()
    await log.follow("t", follower)
    await log.append("t", {"n": 1})
    await follower.count(1)
    statements.clear()
    for n in range(20):
        await log.append("unfollowed", {"n": n})
    await log.append("t", {"n": 2})
    await follower.count(2)
    reads = [one for one in statements if "ORDINALITY" in one]
    assert len(reads) == 1, f"{len(reads)} reads of events for one event that is followed"


async def test_a_log_without_followers_does_not_poll(log, statements):
    follower = Recorder()
    await log.follow("t", follower)
    await log.unfollow("t", follower)
    await reader_ended()
    statements.clear()
    for n in range(20):
        await log.append("t", {"n": n})
    assert not finds(statements)


async def test_an_own_notice_wakes_no_reader(log, statements, no_polls):
    """What this process committed it knows already."""
    follower = Recorder()
    await log.follow("t", follower)
    for n in range(10):
        await log.append("t", {"n": n})
        await follower.count(n + 1)
    await log.unfollow("t", follower)
    await reader_ended()
    # Twice per event at most: the commit itself, and the read that finds that there is no more.
    assert len(finds(statements)) <= 2 * 10 + 2


async def test_ten_thousand_topics_come_and_go(log, session, statements):
    """No task, no connection and no statement per topic; an unfollowed topic costs nothing."""
    await asyncio.gather(*(log.append(f"topic:{n}", {"n": 0}) for n in range(0, 10_000, 10)))
    tasks = len(asyncio.all_tasks())
    statements.clear()
    followers = {f"topic:{n}": Recorder() for n in range(10_000)}
    async with asyncio.TaskGroup() as group:
        for topic, follower in followers.items():
            group.create_task(log.follow(topic, follower))
    assert len(asyncio.all_tasks()) <= tasks + 3
    assert len(statements) < 20, "following many at once is one statement for all of them"
    statements.clear()
    for n in range(20):
        await log.append("topic:77", {"n": n})
        await followers["topic:77"].count(n + 1)
    assert len(finds(statements)) <= 2 * 20 + 2
    assert max(map(len, statements)) < 2_000, "statements do not name the followed topics"
    admin = await session()
    (count,) = await (
        await admin.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )
    ).fetchone()
    assert count <= 16, f"{count} connections"
    await asyncio.gather(*(log.append(f"topic:{n}", {"n": n}) for n in range(10_000)))
    for n in range(10_000):
        follower = followers[f"topic:{n}"]
        await follower.count(1)
        assert follower.records[-1].data == {"n": n}
    for topic, follower in followers.items():
        await log.unfollow(topic, follower)
    await until(lambda: len(asyncio.all_tasks()) <= tasks)


async def test_a_backlog_is_read_in_pieces_and_holds_up_no_other_topic(log, session):
    """A reader that was far behind does not take everything into memory at once."""
    follower, other = Recorder(), Recorder()
    await log.follow("a", follower)
    await log.follow("b", other)
    async with log.engine.connect() as connection:
        for start in range(0, 3000, 1000):
            batch = [{"n": start + n} for n in range(1000)]
            await log.append("a", batch, connection=connection)
        await log.append("b", [{"n": n} for n in range(700)], connection=connection)
        await connection.commit()
    had = []
    deliver = other.deliver

    def note(records):
        had.append(len(follower.records))
        deliver(records)

    other.deliver = note
    await follower.count(3000)
    await other.count(700)
    assert [record.data["n"] for record in follower.records] == list(range(3000))
    assert [record.data["n"] for record in other.records] == list(range(700))
    assert had[0] < 3000, "the other topic waited for all of the first"


async def test_a_follower_that_joins_does_not_get_what_its_bounds_hold(log):
    """The reader may be behind the bounds of a new follower, to which the gap is history."""
    early = Recorder()
    await log.follow("t", early)
    late = []
    for n in range(20):
        await log.append("t", {"n": n})
        follower = Recorder()
        late.append((follower, (await log.follow("t", follower)).latest))
    await log.append("t", {"n": "last"})
    await early.count(21)
    for follower, latest in late:
        await follower.until(lambda one: one.records[-1:] == early.records[-1:], "the last")
        assert follower.records == [one for one in early.records if one.offset > latest]


async def test_a_follower_that_a_trim_overtook_is_reset(log):
    """Nothing is left out silently, and a quiet topic is not reset because of another's trim."""
    overtaken, quiet = Recorder(), Recorder()
    await log.append("quiet", {"n": 1})
    await log.follow("t", overtaken)
    await log.follow("quiet", quiet)
    async with log.engine.begin() as connection:
        await log.append("t", [{"n": 1}, {"n": 2}], connection=connection)
        assert await trim_some(connection, "t", Retention(max_count=1), None) == 1
    await overtaken.until(lambda one: bool(one.resets), "a reset")
    assert (overtaken.resets[0][0], overtaken.records) == ("expired", [])
    await log.append("t", {"n": 3})
    await log.append("quiet", {"n": 2})
    await overtaken.count(1)
    await quiet.count(1)
    assert overtaken.records[0].data == {"n": 3}
    assert not quiet.resets


async def test_a_trim_between_finding_and_reading_is_a_reset(url, log):
    """What was found to be new is gone before it is read: a reset, and no hole without one."""
    follower = Recorder()
    await log.follow("t", follower)
    trimmed = []

    def trim_first(_connection, _cursor, statement, *_):
        if "ORDINALITY" in statement and not trimmed:
            trimmed.append(True)
            with psycopg.connect(url) as other:
                for one in TRIM:
                    other.execute(one)

    sa.event.listen(log.engine.sync_engine, "before_cursor_execute", trim_first)
    await log.append("t", [{"n": n} for n in range(5)])
    await follower.until(lambda one: bool(one.resets), "a reset")
    assert trimmed
    assert (follower.resets[0][0], follower.records) == ("expired", [])
    await log.append("t", {"n": 5})
    await follower.count(1)
    assert follower.records[0].data == {"n": 5}


async def test_what_a_wake_reads_is_found_by_an_index(log, session):
    """However many events there are, and also while the planner has no statistics."""
    await log.append("t", {"n": 0})
    other = await session()
    await other.execute("ALTER TABLE headwater_events SET (autovacuum_enabled = off)")
    await other.execute(
        "INSERT INTO headwater_events (topic_id, number, at, size, part, data)"
        " SELECT 1, n, 0, 7, 0, '{}' FROM generate_series(2, 50000) AS n"
    )
    reads = PostgresDialect()
    (xid,) = await (await other.execute("SELECT pg_current_xact_id()::text")).fetchone()
    values = {
        "beginning": xid, "running": f"{{{int(xid) - 3},{int(xid) - 2}}}", "topic": "t",
        "number": 49_990, "rows": 500, "ids": [1], "last": [49_990],
    }  # fmt: skip
    async with log.engine.connect() as connection:
        for analyzed in (False, True):
            for name in ("find", "next", "after", "before"):
                text = getattr(reads, name).text
                known = {one: value for one, value in values.items() if f":{one}" in text}
                plan = await connection.execute(sa.text(f"EXPLAIN {text}"), known)
                steps = "\n".join(row[0] for row in plan)
                assert "Seq Scan on headwater_events" not in steps, (name, analyzed, steps)
            await connection.rollback()
            await other.execute("ANALYZE headwater_events")
