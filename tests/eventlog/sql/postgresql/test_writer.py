"""Appends: grouped, ordered, and never held up by a topic that another program holds."""

import asyncio

import psycopg
import pytest
import sqlalchemy as sa

from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog import open_log
from headwater.eventlog.sql.postgresql import _writer as writer
from headwater.testing._eventlog import Recorder
from support.until import until


def turns(statements):
    """How often an append has waited for a held topic."""
    return len([one for one in statements if "300ms" in one])


async def settled(log):
    """Until every append that could be committed is."""
    await log.append("settled", {"n": 0})


async def test_an_open_transaction_delays_its_own_topic_alone(log, seen):
    """Another program's transaction that stays open must not stop the reports of all satellites."""
    await log.append("held", {"n": 0})
    async with log.engine.connect() as connection:
        await log.append("held", {"n": 1}, connection=connection)
        waiting = asyncio.create_task(log.append("held", {"n": 2}))
        async with asyncio.timeout(20):
            for n in range(30):
                await log.append("free", {"n": n})
                await log.append(f"new:{n}", {"n": n})
        assert not waiting.done(), "it was appended while another transaction held the topic"
        await connection.commit()
    assert str((await waiting)[0].offset) == "3"
    assert await seen(log, "held") == [0, 1, 2]
    assert await seen(log, "free") == list(range(30))


async def test_a_topic_that_is_just_being_created_delays_nobody_else(log, seen):
    """Its row is not there for anybody else yet, and it may never be."""
    async with log.engine.connect() as connection:
        await log.append("new", {"n": "rolled back"}, connection=connection)
        waiting = asyncio.create_task(log.append("new", {"n": 1}))
        async with asyncio.timeout(20):
            await log.append("free", {"n": 1})
            await log.append("new:2", {"n": 1})
        assert not waiting.done()
        await connection.rollback()
    await waiting
    assert await seen(log, "new") == [1]


async def test_what_waits_for_a_topic_is_appended_in_the_order_of_asking(log, seen):
    await log.append("held", {"n": "first"})
    async with log.engine.connect() as connection:
        await log.append("held", {"n": "theirs"}, connection=connection)
        waiting = []
        for n in range(20):
            key = f"k{n // 2}" if n % 3 == 0 else None
            waiting.append(asyncio.create_task(log.append("held", {"n": n}, key=key)))
            # So that some are asked for while others are found to be held.
            await log.bounds("held")
        await connection.commit()
    await asyncio.gather(*waiting)
    assert await seen(log, "held") == ["first", "theirs", *range(20)]


async def test_more_held_topics_than_lanes(log, seen):
    """Ten topics that are held for long do not keep an eleventh from its turn."""
    names = [f"held:{n}" for n in range(10)]
    for name in [*names, "brief"]:
        await log.append(name, {"n": 0})
    async with log.engine.connect() as long, log.engine.connect() as brief:
        for name in names:
            await log.append(name, {"n": 1}, connection=long)
        waiting = [asyncio.create_task(log.append(name, {"n": 2})) for name in names]
        await settled(log)
        await log.append("brief", {"n": 1}, connection=brief)
        last = asyncio.create_task(log.append("brief", {"n": 2}))
        await settled(log)
        await brief.commit()
        async with asyncio.timeout(20):
            await last
        assert not any(one.done() for one in waiting)
        await long.commit()
    await asyncio.gather(*waiting)
    for name in names:
        assert await seen(log, name) == [0, 1, 2]


async def test_one_topic_is_held_just_after_another(log, seen, statements):
    """An append to the second gets its turn also when the first has just been served."""
    for topic in ("a", "b", "c"):
        await log.append(topic, {"n": 0})
        async with log.engine.connect() as connection:
            await log.append(topic, {"n": 1}, connection=connection)
            waiting = asyncio.create_task(log.append(topic, {"n": 2}))
            await until(lambda: turns(statements))
            statements.clear()
            await connection.commit()
        async with asyncio.timeout(20):
            await waiting
        assert await seen(log, topic) == [0, 1, 2]


async def test_an_append_waits_for_its_topic_so_long_and_no_longer(log, seen, monkeypatch):
    """The caller gets an error, and nothing is appended later."""
    monkeypatch.setattr(writer, "PATIENCE", 0.5)
    await log.append("held", {"n": 0})
    async with log.engine.connect() as connection:
        await log.append("held", {"n": 1}, connection=connection)
        with pytest.raises(SourceUnavailableError, match="holds topic held"):
            await log.append("held", {"n": 2}, key="k")
        await connection.commit()
    assert await seen(log, "held") == [0, 1]
    await log.append("held", {"n": 2}, key="k")
    assert await seen(log, "held") == [0, 1, 2]


async def test_a_caller_that_leaves_while_waiting_appends_nothing(log, seen, statements):
    await log.append("held", {"n": 0})
    async with log.engine.connect() as connection:
        await log.append("held", {"n": 1}, connection=connection)
        waiting = [asyncio.create_task(log.append("held", {"n": n})) for n in (2, 3)]
        await settled(log)
        waiting[0].cancel()
        await asyncio.wait([waiting[0]])
        # One that is waited for just now may still be appended; the next turn leaves it out.
        statements.clear()
        await until(lambda: turns(statements) > 2)
        await connection.commit()
    await waiting[1]
    assert await seen(log, "held") == [0, 1, 3]


async def test_a_trim_of_all_topics_passes_over_one_that_is_held(log, seen):
    for name in ("a", "held", "z"):
        await log.append(name, [{"n": n} for n in range(5)])
    async with log.engine.connect() as connection:
        await log.append("held", {"n": 5}, connection=connection)
        async with asyncio.timeout(20):
            assert await log.trim(max_count=2) == 6
        await connection.commit()
    assert await log.trim(max_count=2) == 4
    assert await seen(log, "held") == [4, 5]


async def test_a_crowd_shares_transactions_and_new_topics_too(log):
    """A thousand appends to a thousand topics take some transactions, not a thousand."""
    commits = []
    sa.event.listen(log.engine.sync_engine, "commit", lambda _: commits.append(None))
    for _ in range(2):
        await asyncio.gather(*(log.append(f"t:{n}", {"n": n}) for n in range(1000)))
    assert len(commits) < 40, f"{len(commits)} transactions"


async def test_connections_that_were_lost_unused_fail_nobody(log, session, seen):
    """A restart of the server in a quiet minute is not the next caller's problem."""
    await asyncio.gather(*(log.append(f"t{n}", {"n": n}) for n in range(5)))
    await asyncio.gather(*(log.bounds("t") for _ in range(5)))
    other = await session()
    kill = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await other.execute(kill)
    assert [str(one.offset) for one in await log.append("t", {"n": 1})] == ["1"]
    await other.execute(kill)
    assert await seen(log) == [1]


async def test_one_failure_reaches_everyone_who_was_committed_together(postgres):
    """Each of a crowd of appenders gets the error, and none waits for ever."""
    name = "not_there_yet"
    log = open_log(f"postgresql://postgres@/{name}?host={postgres.folder}")
    errors = await asyncio.gather(
        *(log.append("t", {"n": n}) for n in range(20)), return_exceptions=True
    )
    assert {type(one) for one in errors} == {SourceUnavailableError}
    with psycopg.connect(postgres.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    await log.append("t", {"n": 1})
    assert str((await log.bounds("t")).latest) == "1"
    await log.close()
    postgres.drop(name)


async def test_an_appender_that_is_cancelled_leaves_whole_batches(log, seen):
    """A client that leaves in the middle of a request tears nothing."""
    for delay in range(30):
        append = asyncio.create_task(log.append("t", [{"n": delay}] * 3))
        for _ in range(delay):
            await asyncio.sleep(0)
        append.cancel()
        await asyncio.wait([append])
    await log.append("t", {"n": "last"})
    kept = await seen(log)
    assert kept[-1] == "last"
    assert all(kept.count(number) in (0, 3) for number in range(30))


async def test_a_closed_log_says_so(log):
    await log.append("t", {"n": 1})
    await log.close()
    for call in (log.append("t", {"n": 2}), log.bounds("t"), log.follow("t", Recorder())):
        with pytest.raises(UsageError, match="closed"):
            await call


async def test_closing_waits_for_what_was_asked_for(url):
    log = open_log(url)
    append = asyncio.create_task(log.append("t", {"n": 1}))
    await asyncio.sleep(0)
    await log.close()
    assert [str(record.offset) for record in await append] == ["1"]
