"""What goes wrong between a table and a log: each change is in the log once all the same."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from headwater.errors import RelayStoppedError
from headwater.eventlog import open_log
from headwater.relay._ledger import RELAYS
from headwater.sql import Table, renew_epochs
from support.relays import Moved, Troubled, holding, running
from support.tables import Client, Log
from support.until import outside

pytestmark = pytest.mark.long


@pytest.fixture
def log(moved):
    return Troubled(moved.log)


async def test_an_append_that_was_not_acknowledged_is_not_made_twice(moved, log):
    log.unacknowledged = 3
    await moved.add(*"abcdef")
    async with running(relay := moved.relay(log=log, batch=2)):
        await moved.until(*"abcdef")
        await moved.add("g")
        await moved.until(*"abcdefg")
    assert log.unacknowledged == 0
    assert relay.relayed == 1 + 6 - 2 * 3


async def test_an_append_that_did_not_arrive_is_made_again(moved, log):
    log.lost = 3
    await moved.add(*"abcdef")
    async with running(moved.relay(log=log, batch=2)):
        await moved.until(*"abcdef")
    assert log.lost == 0


async def test_who_dies_after_an_append_and_before_noting_it_leaves_that_to_the_next(moved, log):
    """The next start finds the append in the log: nothing twice, also where keys are forgotten."""
    log.mute = True
    await moved.add(*"abc")
    task = asyncio.create_task(moved.relay(log=log, batch=2).run())
    async with asyncio.timeout(20):
        await log.made.wait()
    task.cancel()
    await asyncio.wait([task])
    assert (await moved.state()).key is not None
    # The log would take it again now.
    await moved.add("d")
    async with moved.log.engine.begin() as connection:
        await connection.exec_driver_sql(
            "CREATE TRIGGER forget BEFORE INSERT ON headwater_events WHEN NEW.data LIKE '%\"a\"%' "
            "BEGIN SELECT RAISE(ABORT, 'appended twice'); END"
        )
    async with running(moved.relay()):
        await moved.until(*"abcd")


async def test_a_holder_that_was_asleep_does_no_harm(moved, log):
    """It wakes up in the middle of an append that its successor has made meanwhile."""
    log.gate.clear()
    await moved.add(*"ab")
    sleeper, other = moved.relay(log=log), moved.relay()
    async with running(sleeper):
        async with asyncio.timeout(20):
            await log.asked.wait()
        # As if it had said nothing for long: somebody else takes the row.
        await moved.run(
            RELAYS.update().values(holder=None, fence=RELAYS.c.fence + 1, beat=RELAYS.c.beat + 1)
        )
        async with running(other):
            await moved.until(*"ab")
            await moved.add("c")
            await moved.until(*"abc")
            log.gate.set()
            await moved.add("d")
            await moved.until(*"abcd")
            await outside(lambda: not sleeper.holds)
            assert other.holds
            # And it is there when it is needed.
            other.stop()
            assert await holding(sleeper) is sleeper
            await moved.add("e")
            await moved.until(*"abcde")


async def test_a_holder_that_died_is_replaced_after_the_lease(moved):
    """Its row stays as it is, so that somebody else takes it; the one before keeps nothing."""
    async with running(relay := moved.relay()):
        await holding(relay)
    await moved.run(RELAYS.update().values(holder="gone:1:ab"))
    await moved.add("a")
    async with running(moved.relay()):
        await moved.until("a")


async def test_a_holder_that_lives_is_not_replaced(moved):
    """Also while it has nothing to do for longer than the lease."""
    one, other = moved.relay(lease=0.3), moved.relay(lease=0.3)
    async with running(one):
        await holding(one)
        async with running(other):
            before = (await moved.state()).beat

            async def ten_later():
                return (await moved.state()).beat >= before + 10

            await outside(ten_later)
            assert one.holds or other.holds
            assert (await moved.state()).fence <= 2


async def test_other_programs_may_append_to_the_topic(moved):
    await moved.add("a")
    for message in "bc":
        async with running(moved.relay()):
            await moved.until("a", *(["by hand", "b"] if message == "c" else []))
            await moved.log.append("moved", {"message": "by hand"}, key=f"relay:{message}")
        await moved.add(message)
    async with running(moved.relay()):
        await moved.until("a", "by hand", "b", "by hand", "c")


async def test_a_trimmed_topic_is_no_matter(moved):
    async with running(moved.relay()):
        await moved.add(*"abc")
        await moved.until(*"abc")
        await moved.log.trim("moved", max_count=0)
        await moved.add("d")
        await moved.until("d")
    await moved.log.trim("moved", max_count=0)
    await moved.add("e")
    async with running(moved.relay()):
        await moved.until("e")


async def test_an_append_may_have_been_trimmed_away(moved, log, caplog):
    """Nobody can tell then whether it was made: it is made, and that is said."""
    log.mute = True
    await moved.add("a")
    task = asyncio.create_task(moved.relay(log=log).run())
    async with asyncio.timeout(20):
        await log.made.wait()
    task.cancel()
    await asyncio.wait([task])
    await moved.log.trim("moved", max_count=0)
    async with running(moved.relay()):
        await moved.until("a")
    assert "was trimmed past an append that may have been made" in caplog.text


async def relayed(moved, *messages):
    """A relay that has brought these, and ended."""
    await moved.add(*messages)
    async with running(moved.relay()):
        await moved.until(*messages)


async def stops(moved, said, **options):
    with pytest.raises(RelayStoppedError, match=said) as stopped:
        async with asyncio.timeout(20):
            await moved.relay(**options).run()
    assert stopped.value.relay == "moved"
    assert "on_reset='repeat'" in str(stopped.value)


TRIMMED = {"repeat": [*"ab", *"cd", "e"], "skip": [*"ab", *"cd", "e"]}
RENEWED = {"repeat": [*"ab", *"abc", "e"], "skip": [*"ab", "e"]}


@pytest.mark.parametrize("on_reset", ["repeat", "skip"])
async def test_a_table_that_was_trimmed_past_the_relay(moved, on_reset):
    """What is left was not relayed: both begin with that."""
    await relayed(moved, *"ab")
    await moved.add(*"Xcd")
    await Table(moved.engine, Log).trim(max_count=2, grace=0)
    await stops(moved, "table 'logs' was trimmed past what was relayed")
    async with running(moved.relay(on_reset=on_reset)):
        await moved.until(*TRIMMED[on_reset][:-1])
        await moved.add("e")
        await moved.until(*TRIMMED[on_reset])
    async with running(moved.relay(batch=1)):
        await moved.add("f")
        await moved.until(*TRIMMED[on_reset], "f")


@pytest.mark.parametrize("on_reset", ["repeat", "skip"])
async def test_a_table_with_a_new_epoch(moved, on_reset):
    await relayed(moved, *"ab")
    await moved.add("c")
    async with moved.engine.begin() as connection:
        await connection.run_sync(renew_epochs)
    await stops(moved, "table 'logs' was emptied, created again or restored")
    async with running(moved.relay(on_reset=on_reset)):
        await moved.until(*RENEWED[on_reset][:-1])
        await settled(moved)
        await moved.add("e")
        await moved.until(*RENEWED[on_reset])


async def settled(moved):
    """Until the row of the relay names the table's epoch of now."""
    head = await Table(moved.engine, Log).reader.head()

    async def named():
        return (await moved.state()).epoch == head.epoch

    await outside(named)


async def test_removals_of_a_keyed_table_that_were_trimmed(moved):
    """A relay that begins with all rows does not stumble over what was forgotten before."""
    await moved.run(Client.__table__.insert().values(id="x", user_id=1))
    await moved.run(Client.__table__.insert().values(id="y", user_id=1))
    await moved.run(Client.__table__.insert().values(id="z", user_id=1))
    await moved.run("DELETE FROM clients WHERE id = 'y'")
    await moved.run("UPDATE clients SET user_id = 2 WHERE id = 'x'")
    await moved.run("DELETE FROM clients WHERE id = 'x'")
    assert await Table(moved.engine, Client).trim(max_count=0, grace=0)
    async with running(moved.relay(Client, batch=1)):
        assert [one.get("id") for one in await moved.count(1)] == ["z"]


@pytest.mark.parametrize(("on_reset", "there"), [("repeat", "abc"), ("skip", "c")])
async def test_another_log(moved, tmp_path, on_reset, there):
    """A wiped log and one in its place are the same to a relay."""
    await relayed(moved, *"ab")
    async with open_log(f"sqlite:///{tmp_path}/other.db") as other:
        await moved.add("c")
        await stops(moved, "is not the one that it appended to, or was wiped", log=other)
        assert await moved.messages(log=other) == []
        async with running(moved.relay(log=other, on_reset=on_reset)):
            await moved.until(*there, log=other)
        async with running(moved.relay(log=other)):
            await moved.add("d")
            await moved.until(*there, "d", log=other)


@pytest.mark.parametrize(("on_reset", "there"), [("repeat", "ab"), ("skip", "ab")])
async def test_another_log_with_an_append_under_way(moved, log, tmp_path, on_reset, there):
    """What was written down before goes into the new log, once."""
    log.mute = True
    await moved.add(*"ab")
    task = asyncio.create_task(moved.relay(log=log).run())
    async with asyncio.timeout(20):
        await log.made.wait()
    task.cancel()
    await asyncio.wait([task])
    async with open_log(f"sqlite:///{tmp_path}/other.db") as other:
        async with running(moved.relay(log=other, on_reset=on_reset)):
            await moved.until(*there, log=other)


@pytest.mark.parametrize(("on_reset", "there"), [("repeat", "ababc"), ("skip", "abbc")])
async def test_a_database_that_was_set_back(moved, on_reset, there):
    """The log has what the relay does not know to have brought."""
    await relayed(moved, "a")
    before = (await moved.state())._mapping
    await moved.add("b")
    async with running(moved.relay()):
        await moved.until(*"ab")
    kept = {name: before[name] for name in before if name not in ("holder", "fence", "beat")}
    await moved.run(RELAYS.update().values(kept))
    await stops(moved, "topic moved has events of this relay that its database does not know of")
    await moved.add("c")
    async with running(moved.relay(on_reset=on_reset)):
        await moved.until(*there)


async def test_a_log_that_was_set_back(moved):
    await relayed(moved, *"ab")
    async with moved.log.engine.begin() as connection:
        await connection.exec_driver_sql("DELETE FROM headwater_events WHERE number = 2")
        await connection.exec_driver_sql("UPDATE headwater_topics SET latest = 1")
    await stops(moved, "was set back to before what this relay brought")


async def test_a_log_that_is_wiped_meanwhile_is_noticed_without_rows(moved):
    relay = moved.relay()
    task = asyncio.create_task(relay.run())
    await moved.add("a")
    await moved.until("a")
    async with moved.log.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE headwater_log SET epoch = 'other'")
    with pytest.raises(RelayStoppedError, match="or was wiped"):
        async with asyncio.timeout(20):
            await task


@pytest.mark.parametrize("moved", ["postgresql"], indirect=True)
async def test_connections_of_the_database_may_break_at_any_time(moved):
    # Whoever writes has connections of their own, each for one transaction.
    engine = create_async_engine(moved.engine.url, poolclass=NullPool)
    writer = Moved(engine, moved.log)
    async with running(moved.relay(batch=3)):
        for start in range(0, 60, 6):
            await writer.add(*(f"m{n}" for n in range(start, start + 6)))
            await writer.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await moved.until(*(f"m{n}" for n in range(60)))
    await engine.dispose()


@pytest.mark.parametrize("moved", ["sqlite"], indirect=True)
async def test_the_file_of_the_database_may_be_away_for_a_while(moved, tmp_path, caplog):
    async with running(relay := moved.relay()):
        await moved.add("a")
        await moved.until("a")
        for name in ("table.db", "table.db-wal", "table.db-shm"):
            if (tmp_path / name).exists():
                (tmp_path / name).rename(tmp_path / f"away-{name}")
        await outside(lambda: "waits" in caplog.text)
        for file in list(tmp_path.glob("away-*")):
            file.rename(tmp_path / file.name.removeprefix("away-"))
        await holding(relay)
        await moved.add("b")
        await moved.until(*"ab")
