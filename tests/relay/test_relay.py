"""What a relay brings into a log: each change of the table once, in its order, across restarts."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from pydantic import BaseModel

from headwater.errors import DeclarationError, EncodingError, UsageError
from headwater.eventlog import MemoryLog
from headwater.relay import Relay, create_tables
from headwater.sql import Table, postgresql_engine, sqlite_engine
from headwater.sql._reflection import reflect
from headwater.sql.alembic import add_tracking
from support.relays import Moved, Troubled, holding, running
from support.tables import Base, Client, Log


async def test_rows_that_are_there_and_those_to_come_are_each_one_event(moved):
    await moved.add("a", "b")
    relay = moved.relay()
    async with running(relay):
        await moved.until("a", "b")
        await moved.add("c", created_at=datetime(2026, 1, 2, tzinfo=UTC))
        await moved.until("a", "b", "c")
    assert relay.relayed == 3
    event = {"id": 3, "user_id": 1, "level": "info", "message": "c"}
    assert (await moved.events())[2] == event | {"created_at": "2026-01-02T00:00:00Z"}


@pytest.mark.parametrize("order", ["prompt", "total"])
async def test_a_relay_goes_on_where_it_was(moved, order):
    """With more rows than one append takes, and with appends of others between."""
    for start in range(0, 90, 30):
        await moved.add(*(f"m{n}" for n in range(start, start + 30)))
        async with running(moved.relay(batch=7, order=order)):
            await moved.until(*(f"m{n}" for n in range(start + 30)))
    assert (await moved.state()).relayed == 90
    assert (await moved.state()).holder is None


async def test_rows_that_are_older_than_the_tracking_come_first(moved):
    await moved.run("CREATE TABLE older (id INTEGER PRIMARY KEY, message TEXT)")
    await moved.run("INSERT INTO older VALUES (3, 'c'), (1, 'a'), (2, 'b')")
    async with moved.engine.begin() as connection:
        await connection.run_sync(add_tracking, "older")
    table = await reflect(moved.engine, "older")
    async with running(moved.relay(table, batch=2)):
        await moved.until("a", "b", "c")
        await moved.run("INSERT INTO older (id, message) VALUES (0, 'd')")
        await moved.until("a", "b", "c", "d")


async def test_a_relay_may_begin_with_what_is_to_come(moved):
    await moved.add("old")
    relay = moved.relay(start="now")
    async with running(relay):
        await holding(relay)
        await moved.add("new")
        await moved.until("new")


async def test_changes_and_removals_of_a_keyed_table(moved):
    """A row that was updated is told again; what was removed is told with its key."""
    relay = moved.relay(Client)

    async def told(count):
        found = await moved.count(count)
        return [one.get("_removed") or (one["id"], one["name"]) for one in found]

    async with running(relay):
        await moved.run(sa.insert(Client).values(id="x", user_id=1, name="first"))
        await told(1)
        await moved.run(sa.update(Client).values(name="second"))
        await told(2)
        await moved.run(sa.delete(Client))
        assert await told(3) == [("x", "first"), ("x", "second"), {"id": "x"}]


class Short(BaseModel):
    id: int
    message: str


@pytest.mark.parametrize(
    "item",
    [Short, lambda row: {"id": row["id"], "message": row["message"]}, lambda row: Short(**row)],
    ids=["model", "function", "function to model"],
)
async def test_an_event_can_be_shaped(moved, item):
    await moved.add("a")
    async with running(moved.relay(item=item)):
        await moved.until("a")
    assert await moved.events() == [{"id": 1, "message": "a"}]


async def test_rows_can_be_left_out(moved):
    def item(row):
        return None if row["message"] == "secret" else row

    async with running(moved.relay(item=item)):
        await moved.add("a", "secret", "b")
        await moved.until("a", "b")
        await moved.add("secret")
        await moved.add("c")
        await moved.until("a", "b", "c")


async def test_of_two_relays_one_works_and_the_other_follows_it_at_once(moved):
    """One that is told to end leaves the relay free: nobody waits for the lease."""
    one, other = (moved.relay(lease=600.0) for _ in range(2))
    async with running(one, other):
        first = await holding(one, other)
        second = other if first is one else one
        await moved.add("a")
        await moved.until("a")
        assert not second.holds
        first.stop()
        await holding(second)
        await moved.add("b")
        await moved.until("a", "b")
    assert (first.relayed, second.relayed) == (1, 1)


async def test_relays_of_several_tables_and_topics_share_a_database(moved):
    await moved.add("a")
    await moved.run(sa.insert(Client).values(id="x", user_id=1, name="n"))
    async with running(
        moved.relay(topic="one"), moved.relay(topic="two"), moved.relay(Client, topic="three")
    ):
        await moved.until("a", topic="one")
        await moved.until("a", topic="two")
        await moved.count(1, "three")


async def test_a_name_is_of_one_table_and_one_topic(moved):
    async with running(relay := moved.relay(name="mine")):
        await holding(relay)
    for options in ({"model": Client}, {"topic": "other"}):
        with pytest.raises(DeclarationError, match="'mine' moves table 'logs' into topic 'moved'"):
            await moved.relay(**{"name": "mine", **options}).run()


async def test_a_row_that_cannot_be_an_event_ends_the_relay_after_those_before_it(moved):
    """Nothing is left out silently; once it can be, the relay goes on."""
    await moved.add("a", "b", "c")

    def item(row):
        return row | ({"ratio": float("nan")} if row["message"] == "b" else {})

    for _ in range(2):
        with pytest.raises(EncodingError, match=r'row \{"id": "2"\} .* column \'ratio\': .*JSON'):
            await moved.relay(item=item).run()
        assert await moved.messages() == ["a"]
    async with running(moved.relay()):
        await moved.until("a", "b", "c")


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (lambda row: row["nothing"], "KeyError"),
        (lambda row: [1], "an event is a JSON object, and item= gave list"),
        (lambda row: {"text": "x" * 1_048_576}, "1048587 bytes of JSON"),
        (lambda row: {"text": "\ud800"}, "lone surrogate"),
        (lambda row: json.loads('{"in":' * 101 + "1" + "}" * 101), "nested too deeply"),
    ],
)
async def test_what_is_wrong_with_an_event_is_said(moved, item, said):
    await moved.add("a")
    with pytest.raises(EncodingError, match=said):
        await moved.relay(item=item).run()


async def test_large_rows_go_in_appends_of_a_megabyte(moved):
    """What is written down before an append stays small, whatever ``batch`` says."""
    texts = [f"{n}{'x' * 400_000}" for n in range(5)]
    await moved.add(*texts)
    async with running(moved.relay()):
        await moved.until(*texts)
    records = (await moved.log.read("moved", (0,), 10)).records
    assert len({record.key for record in records}) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"topic": "no spaces"}, "topic 'no spaces'"),
        ({"name": ""}, "relay '': a relay's name has 1 to 200"),
        ({"start": "end"}, "start='end' must be 'beginning' or 'now'"),
        ({"on_reset": "go"}, "on_reset='go' must be 'stop', 'repeat' or 'skip'"),
        ({"lease": 0}, "lease=0 must be 0.1 to 3600 seconds"),
        ({"lease": None}, "lease=None must be 0.1 to 3600 seconds"),
        ({"batch": 0}, "batch=0 must be 1 to 10000"),
        ({"batch": 1.5}, "batch=1.5 must be 1 to 10000"),
        ({"item": "Entry"}, "item='Entry' must be a pydantic model or a function of a row"),
        ({"table": Log}, "Log'>: the first argument must be a headwater.sql.Table"),
        ({"log": "nats://log"}, "'nats://log': the second argument must be a log"),
        ({"log": MemoryLog()}, "loses its events when the process ends"),
    ],
)
async def test_what_cannot_be_is_refused(tmp_path, options, said):
    log = options.pop("log", None) or _log(tmp_path)
    engine = sqlite_engine(f"sqlite:///{tmp_path}/table.db")
    table = options.pop("table", None) or Table(engine, Log)
    with pytest.raises(UsageError, match=said):
        Relay(table, log, **{"topic": "moved", **options})


async def test_a_relay_runs_once_at_a_time(moved):
    """Two would take it from each other for ever, with a write to the database each time."""
    relay = moved.relay()
    async with running(relay):
        await moved.add("a")
        await moved.until("a")
        with pytest.raises(UsageError, match="relay 'moved' runs already"):
            await relay.run()
        await moved.add("b")
        await moved.until("a", "b")


async def test_a_lease_must_be_short_beside_the_time_that_keys_are_known(tmp_path):
    from headwater.eventlog import open_log

    engine = sqlite_engine(f"sqlite:///{tmp_path}/table.db")
    log = open_log("redis://127.0.0.1:1/0?keys_kept=40")
    with pytest.raises(DeclarationError, match=r"lease=5.0 is too long .* for 40 s"):
        Relay(Table(engine, Log), log, "moved")
    await log.close()


async def test_a_table_that_is_not_tracked_is_refused(tmp_path):
    engine = sqlite_engine(f"sqlite:///{tmp_path}/table.db")
    table = Table.untracked(engine, Log, order_by="created_at")
    with pytest.raises(DeclarationError, match="'logs' is not tracked"):
        Relay(table, _log(tmp_path), "moved")


def _log(folder):
    from headwater.eventlog import open_log

    return open_log(f"sqlite:///{folder}/log.db")


async def test_what_a_relay_writes_down_outlives_a_crash_of_the_server(postgres):
    """Also where commits are flushed later by default: the log would know more than the table."""
    name = postgres.database()
    engine = postgresql_engine(postgres.url(name))
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.exec_driver_sql(f"ALTER DATABASE {name} SET synchronous_commit TO off")
            # Notes how each row of the relay was committed.
            await connection.run_sync(create_tables)
            for statement in NOTED:
                await connection.exec_driver_sql(statement)
        await engine.dispose()
        moved = Moved(engine, Troubled(MemoryLog()))
        moved.log.capabilities = replace(MemoryLog.capabilities, durable=True)
        async with running(moved.relay()):
            await moved.add("a")
            await moved.until("a")
        async with engine.connect() as connection:
            found = await connection.execute(sa.text("SELECT DISTINCT how FROM noted"))
            assert found.scalars().all() == ["local"]
    finally:
        await engine.dispose()
        postgres.drop(name)


NOTED = (
    "CREATE TABLE noted (how text)",
    """CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO noted VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$""",
    "CREATE TRIGGER note BEFORE INSERT OR UPDATE ON headwater_relays "
    "FOR EACH ROW EXECUTE FUNCTION note()",
)


async def test_a_relay_without_rights_says_which(postgres):
    name = postgres.database()
    engine = postgresql_engine(postgres.url(name).replace("postgres@", "relay_guest@"))
    own = postgresql_engine(postgres.url(name))
    try:
        async with own.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.exec_driver_sql("CREATE ROLE relay_guest LOGIN")
            await connection.exec_driver_sql(
                "GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC"
            )
            await connection.run_sync(create_tables)
        moved = Moved(engine, Troubled(MemoryLog()))
        moved.log.capabilities = replace(MemoryLog.capabilities, durable=True)
        with pytest.raises(DeclarationError, match=r"may not use .* grant SELECT, INSERT"):
            await moved.relay().run()
    finally:
        await engine.dispose()
        async with own.begin() as connection:
            await connection.exec_driver_sql("DROP OWNED BY relay_guest")
            await connection.exec_driver_sql("DROP ROLE relay_guest")
        await own.dispose()
        postgres.drop(name)
