"""Pages of a table on PostgreSQL: exact at both ends, whatever runs, and read from an index."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import event, insert, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.errors import PositionError, SourceUnavailableError
from headwater.feeds._feed import Feed
from headwater.sql import Table, track
from headwater.sql.alembic import add_tracking
from headwater.sql.postgresql._place import SnapshotPlace
from headwater.sql.postgresql._snapshot import NOTHING, TransactionSnapshot
from support.tables import START, Client, Clock, Log, Recorder

HALF = timedelta(minutes=30)
BEGINNING = SnapshotPlace(NOTHING)


class Quiet(DeclarativeBase):
    pass


@track(notify=False)
class Line(Quiet):
    __tablename__ = "lines"

    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
async def logs(engine):
    """Twelve rows, each of its own transaction."""
    async with engine.connect() as connection:
        for n in range(1, 13):
            row = {"user_id": n % 2, "level": ["info", "error"][n % 3 == 0]}
            await connection.execute(insert(Log), [row])
            await connection.commit()
    return Table(engine, Log)


@pytest.fixture
def clients(engine):
    table = Table(engine, Client)
    table.reader.clock = Clock()
    return table


async def run(engine, sql, **values):
    async with engine.begin() as connection:
        await connection.execute(text(sql), values)


def ids(page):
    return [f"-{c.key['id']}" if c.removed else c.item["id"] for c in page.changes]


async def again(source, page, place):
    """A place as a client brings it back."""
    return await source.locate(page.epoch, str(place))


async def test_the_newest_and_those_before(logs):
    source = logs.where(user_id=1)
    page = await source.page(4)
    assert (ids(page), page.has_more) == ([5, 7, 9, 11], True)
    older = await source.page(4, before=await again(source, page, page.start))
    assert (ids(older), older.has_more) == ([1, 3], False)
    after = await again(source, page, older.end)
    assert ids(await source.page(9, after=after)) == [5, 7, 9, 11]
    assert ids(await source.page(2, after=page.end)) == []


async def test_those_after_and_the_head_at_the_end(logs):
    source = logs.where(user_id=1)
    first = (await source.page(1, after=BEGINNING)).end
    page = await source.page(5, after=first)
    assert (ids(page), page.has_more) == ([3, 5, 7, 9, 11], False)
    assert page.end == (await source.page(1)).end
    page = await source.page(4, after=first)
    assert (ids(page), page.has_more, page.end) == ([3, 5, 7, 9], True, page.changes[-1].place)
    assert ids(await source.page(4, after=page.end)) == [11]


async def test_an_empty_page_starts_behind_what_the_client_has(logs):
    source = logs.where(user_id=1)
    whole = await source.page(20, after=BEGINNING)
    page = await source.page(4, after=whole.changes[-1].place)
    assert ids(page) == []
    assert ids(await source.page(2, before=page.start)) == [9, 11]
    middle = await source.page(4, after=whole.changes[2].place)
    assert ids(await source.page(2, before=middle.start)) == [3, 5]
    empty = await logs.where(user_id=77).page(4)
    assert (ids(empty), empty.has_more) == ([], False)
    assert ids(await logs.where(user_id=77).page(4, before=empty.start)) == []
    for place in (page.start, page.end, empty.start, empty.end, middle.start):
        assert await again(source, page, place) == place


async def test_lists_unions_and_nothing(logs):
    assert ids(await logs.where(level=["error"], user_id=[0, 1]).page(9)) == [3, 6, 9, 12]
    union = logs.where(user_id=1) | logs.where(level="error")
    assert ids(await union.page(20)) == [1, 3, 5, 6, 7, 9, 11, 12]
    assert ids(await union.page(3)) == [9, 11, 12]
    third = (await union.page(2, after=BEGINNING)).end
    assert ids(await union.page(3, after=third)) == [5, 6, 7]
    assert ids(await logs.where(user_id=list(range(40))).page(2)) == [11, 12]
    assert ids(await logs.where(user_id=[]).page(2)) == []


async def test_a_position_stands_still_while_the_table_does(engine, logs, clients):
    """An ETag is made from it; other tables and transactions that gave up change nothing."""
    before = (await logs.where().page(3)).end
    await run(engine, "INSERT INTO clients (id, user_id) VALUES ('a', 1)")
    async with engine.connect() as connection:
        await connection.execute(insert(Log), [{"user_id": 1}])
        await connection.rollback()
    assert str((await logs.where().page(3)).end) == str(before)
    assert len(Feed("logs").position((await logs.where().page(3)).epoch, before)) < 100
    await run(engine, "DELETE FROM logs WHERE id = 12")
    assert (await logs.where().page(3)).end == before


async def test_places_of_others_are_unknown(engine, logs):
    source = logs.where()
    page = await source.page(1)
    later = SnapshotPlace(TransactionSnapshot(page.end.snapshot.xmax + 1000))
    for epoch, place in ((page.epoch, str(later)), (page.epoch, "x y"), ("other", str(page.end))):
        with pytest.raises(PositionError) as caught:
            await source.locate(epoch, place)
        assert caught.value.reason == "unknown"


async def test_a_place_that_has_what_is_still_running_is_of_the_future(logs, session):
    """As after the data was set back: the ids are used a second time."""
    running = await session()
    await running.execute("BEGIN")
    xid = (await (await running.execute("SELECT pg_current_xact_id()::text")).fetchone())[0]
    page = await logs.where().page(1)
    await running.execute("SAVEPOINT a")
    await running.execute("CREATE TABLE other (id int)")
    await (await session()).execute("INSERT INTO logs (user_id) VALUES (1)")
    with pytest.raises(PositionError, match="future"):
        await logs.where().locate(page.epoch, str(SnapshotPlace(TransactionSnapshot(int(xid) + 1))))


async def test_a_page_is_one_statement(engine, clients, logs):
    await logs.where().page(1)
    await clients.where().page(1)
    statements = []
    event.listen(
        engine.sync_engine, "before_cursor_execute", lambda c, cur, sql, *_: statements.append(sql)
    )
    await logs.where().page(3)
    await clients.where(user_id=1).within("seen_at", HALF).page(3, after=BEGINNING)
    # Once a second the catalogue is asked too.
    assert len([sql for sql in statements if "headwater_tables" in sql]) == 2


# Indexes


@pytest.mark.long
@pytest.mark.parametrize("selection", ["all", "one", "two columns", "union", "keyed"])
async def test_pages_use_an_index(engine, session, clients, selection):
    """Of a table with many rows, also after psycopg has prepared the statement for any values."""
    logs = Table(engine, Log)
    writer = await session()
    await writer.execute(
        "INSERT INTO clients (id, user_id) SELECT g, g % 9 FROM generate_series(1, 3000) g"
    )
    for _ in range(3):
        await writer.execute(
            "INSERT INTO logs (user_id, level) SELECT g % 9, 'info' FROM generate_series(1, 3000) g"
        )
    await writer.execute("DELETE FROM clients WHERE user_id > 5")
    await writer.execute("ANALYZE")
    source = {
        "all": logs.where(),
        "one": logs.where(user_id=1),
        "two columns": logs.where(user_id=1, level="info"),
        "union": logs.where(user_id=1) | logs.where(user_id=2, level="info"),
        "keyed": clients.where(user_id=1, team_id=1),
    }[selection]
    page = await source.page(5)
    places = [
        {},
        {"after": SnapshotPlace(TransactionSnapshot(page.end.snapshot.xmax, (1000, 1001)))},
        {"after": page.start},
        {"before": page.start},
    ]
    seen = []
    event.listen(
        engine.sync_engine,
        "before_cursor_execute",
        lambda c, cur, sql, values, *_: seen.append((sql, values)),
    )
    for place in places:
        await source.page(5, **place)
    # Once a second the catalogue is asked too.
    asked = [each for each in seen if "headwater_tables" in each[0]]
    assert len(asked) == len(places)
    for sql, values in asked:
        for mode in ("force_generic_plan", "force_custom_plan"):
            async with engine.connect() as connection:
                await connection.execute(text(f"SET plan_cache_mode = {mode}"))
                plan = await connection.exec_driver_sql(f"EXPLAIN {sql}", values)
                steps = [row[0] for row in plan]
            scans = [step for step in steps if "Seq Scan" in step]
            own = [s for s in scans if " on logs" in s or " on clients" in s]
            assert not own, "\n".join(steps)
            assert any("_headwater_change on" in step for step in steps), "\n".join(steps)


# Rows that are older than the tracking


@pytest.fixture
async def old(engine, postgres, database):
    """A table that had rows before it was tracked, some of them with equal moments."""

    class Own(DeclarativeBase):
        pass

    @track(keyed=True, filters=("user_id",))
    class Old(Own):
        __tablename__ = "old"
        key: Mapped[str] = mapped_column(primary_key=True)
        n: Mapped[int] = mapped_column(primary_key=True)
        user_id: Mapped[int]
        seen_at: Mapped[datetime]

    sync = sa.create_engine(postgres.url(database), isolation_level="AUTOCOMMIT")
    with sync.connect() as connection:
        connection.execute(
            text(
                "CREATE TABLE old (key text, n int, user_id int NOT NULL, "
                "seen_at timestamp NOT NULL, PRIMARY KEY (key, n))"
            )
        )
        connection.execute(
            text("INSERT INTO old SELECT 'ü~' || g % 3, g, 1, :seen FROM generate_series(1, 9) g"),
            {"seen": START.replace(tzinfo=None)},
        )
        add_tracking(connection, "old", keyed=True, filters=["user_id"])
    sync.dispose()
    return Table(engine, Old)


def names(page):
    return [(c.key["key"], c.key["n"]) for c in page.changes]


async def test_older_rows_are_paged_in_the_order_of_the_key(engine, old):
    await run(engine, "INSERT INTO old VALUES ('new', 1, 1, now())")
    source = old.where(user_id=1)
    found, before = [], None
    while True:
        page = await source.page(2, before=before)
        found = names(page) + found
        if not page.has_more:
            break
        before = await again(source, page, page.start)
    expected = [(f"ü~{g % 3}", g) for g in sorted(range(1, 10), key=lambda g: (g % 3, g))]
    assert found == [*expected, ("new", 1)]
    forth = await again(source, page, page.end)
    rest = await source.page(100, after=forth)
    assert names(page) + names(rest) == found
    # And a client that came before all this is not told them again.
    assert names(await source.page(100, after=SnapshotPlace(TransactionSnapshot(1)))) == [
        ("new", 1)
    ]


async def test_older_rows_leave_a_window_one_by_one(engine, old):
    clock = old.reader.clock = Clock()
    source = old.where(user_id=1).within("seen_at", HALF)
    page = await source.page(100)
    assert len(page.changes) == 9
    place = page.end
    clock.pass_(minutes=31)
    left = []
    while True:
        page = await source.page(2, after=await again(source, page, place))
        left += [change.key["n"] for change in page.changes if change.removed]
        place = page.end
        if not page.has_more:
            break
    assert sorted(left) == list(range(1, 10))
    assert not (await source.page(9, after=place)).changes


# What a client sees of the server


@pytest.mark.long
@pytest.mark.parametrize("spread", [1, 40])
async def test_positions_stay_short_with_a_thousand_transactions_in_flight(
    postgres, database, session, spread
):
    """Prepared ones, so that no thousand connections are needed; each is told once in the end."""
    engine = create_async_engine(postgres.url(database))
    async with engine.begin() as connection:
        await connection.run_sync(Quiet.metadata.create_all)
    writer = await session()
    table, feed = Table(engine, Line), Feed("lines")
    place, told, longest = BEGINNING, [], 0
    for n in range(1000):
        await writer.execute("BEGIN")
        await writer.execute("INSERT INTO lines DEFAULT VALUES")
        await writer.execute(f"PREPARE TRANSACTION '{database}-{n}'")
        if n % 100 == 50:
            for _ in range(spread):
                await writer.execute("INSERT INTO lines DEFAULT VALUES")
            page = await table.where().page(100, after=place)
            # The client leaves in the middle of them.
            most = (len(page.changes) + 1) // 2
            told += ids(page)[:most]
            place = await again(table.where(), page, page.changes[most - 1].place)
            longest = max(longest, len(feed.position(page.epoch, place)))
    assert 150 < longest < 2048
    for n in range(1000):
        await writer.execute(f"COMMIT PREPARED '{database}-{n}'")
    while True:
        page = await table.where().page(100, after=place)
        told += ids(page)
        place = await again(table.where(), page, page.end)
        if not page.has_more:
            break
    assert sorted(told) == list(range(1, 1001 + 10 * spread))
    await engine.dispose()


async def test_what_does_not_fit_a_position_waits(postgres, database, session, monkeypatch):
    """Better late than told twice: the latest wait until fewer transactions run."""
    monkeypatch.setattr("headwater.sql.postgresql._reader.MAX_SNAPSHOT", 60)
    monkeypatch.setattr("headwater.sql.postgresql._reader.FEW_RUNNING", 5)
    engine = create_async_engine(postgres.url(database))
    async with engine.begin() as connection:
        await connection.run_sync(Quiet.metadata.create_all)
    writer = await session()
    table, sink = Table(engine, Line), Recorder()
    await table.origin.attach(sink)
    for n in range(200):
        await writer.execute("BEGIN")
        await writer.execute("INSERT INTO lines DEFAULT VALUES")
        await writer.execute(f"PREPARE TRANSACTION '{database}-{n}'")
        await writer.execute("INSERT INTO lines DEFAULT VALUES")
    page = await table.where().page(300)
    assert 50 < len(page.changes) < 200
    assert len(str(page.end)) <= 60
    later = await table.where().page(300, after=page.end)
    assert later.changes == []
    for n in range(200):
        await writer.execute(f"COMMIT PREPARED '{database}-{n}'")
    rest = await table.where().page(500, after=page.end)
    assert sorted(ids(page) + ids(rest)) == list(range(1, 401))
    await sink.count(400)
    assert sorted(change.item["id"] for change in sink.changes) == list(range(1, 401))
    await table.origin.detach()
    await engine.dispose()


async def test_triggers_of_another_declaration_are_noticed(engine):
    await run(engine, """UPDATE headwater_tables SET declared = '{"keyed": true, "filters": []}'""")
    with pytest.raises(SourceUnavailableError, match="add_tracking"):
        await Table(engine, Client).where().page(1)


@pytest.mark.parametrize(
    "how",
    ["DROP TRIGGER {} ON logs", "ALTER TABLE logs DISABLE TRIGGER {}",
     "ALTER TABLE logs ENABLE TRIGGER {}"],
)  # fmt: skip
async def test_triggers_that_are_gone_or_disabled_are_noticed(engine, how):
    await run(engine, how.format("headwater_logs_insert"))
    with pytest.raises(SourceUnavailableError, match="is gone|not enabled"):
        await Table(engine, Log).origin.attach(Recorder())


async def test_a_database_that_is_not_migrated_is_away(postgres):
    name = postgres.database()
    engine = create_async_engine(postgres.url(name))
    with pytest.raises(SourceUnavailableError, match="migrated"):
        await Table(engine, Log).where().page(1)
    await engine.dispose()
    with pytest.raises(SourceUnavailableError, match="no such database|does not exist"):
        missing = create_async_engine(postgres.url("missing"))
        await Table(missing, Log).where().page(1)
    postgres.drop(name)


async def test_a_role_that_may_only_read_can_follow(engine, postgres, database, logs):
    await run(engine, "DROP ROLE IF EXISTS reading")
    await run(engine, "CREATE ROLE reading LOGIN")
    await run(engine, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reading")
    reading = create_async_engine(postgres.url(database).replace("postgres@", "reading@"))
    table, sink = Table(reading, Log), Recorder()
    await table.origin.attach(sink)
    await run(engine, "INSERT INTO logs (user_id) VALUES (5)")
    await sink.count(1)
    await table.origin.detach()
    await reading.dispose()
    await run(engine, "DROP OWNED BY reading")
    await run(engine, "DROP ROLE reading")


async def test_where_the_control_file_is_private_positions_hold_too(engine, logs):
    await run(engine, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    table = Table(engine, Log)
    page = await table.where().page(2)
    assert ids(page) == [11, 12]


async def test_the_orm_neither_loads_nor_writes_the_columns(engine):
    assert not hasattr(Log, "headwater_change")
    async with AsyncSession(engine) as session:
        log = Log(user_id=1)
        session.add(log)
        await session.commit()
        await session.refresh(log)
        log.message = "x"
        await session.commit()


async def test_items_are_of_the_columns_types(engine, clients):
    moment = datetime(2026, 3, 1, 11, 59, 1, 500, tzinfo=UTC)
    async with AsyncSession(engine) as session:
        session.add(Client(id="a", user_id=1, seen_at=moment))
        await session.commit()
    source = clients.where(user_id=1).within("seen_at", HALF)
    page = await source.page(1)
    assert page.changes[0].item["seen_at"] == page.changes[0].moment == moment
    assert await source.members() == [({"id": "a"}, moment)]
    await run(engine, "DELETE FROM clients")
    gone = (await clients.where().page(5, after=page.end)).changes[0]
    assert (gone.removed, gone.key, gone.moment) == (True, {"id": "a"}, moment)
    assert gone.values == {"id": "a", "user_id": 1, "team_id": 1, "seen_at": moment}
