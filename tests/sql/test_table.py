"""What a feed's author sees: clear refusals when it is declared, and pages that are exact."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Column, Integer, MetaData, event, insert, text, update
from sqlalchemy import Table as CoreTable
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from headwater.errors import DeclarationError, PositionError, SourceUnavailableError
from headwater.sql import RowPlace, Table, sqlite_engine, track, track_table
from support.tables import START, Base, Client, Log, Recorder

HALF = timedelta(minutes=30)


@pytest.fixture
async def logs(engine):
    async with engine.begin() as connection:
        await connection.execute(
            insert(Log),
            [{"user_id": n % 2, "level": ["info", "error"][n % 3 == 0]} for n in range(1, 13)],
        )
    return Table(engine, Log)


@pytest.fixture
def clients(engine, clock):
    table = Table(engine, Client)
    table.reader.clock = clock
    return table


async def run(engine, sql, **values):
    async with engine.begin() as connection:
        await connection.execute(text(sql), values)


def ids(page):
    return [f"-{c.key['id']}" if c.removed else c.item["id"] for c in page.changes]


# Declarations


def test_an_unknown_column_is_refused_with_those_there_are(engine):
    with pytest.raises(DeclarationError, match=r"'colour'.*id, user_id, level, message"):
        Table(engine, Log).where(colour=1)


def test_a_keyed_table_is_filtered_by_its_filters_alone(clients):
    with pytest.raises(DeclarationError, match=r"'name'.*user_id, team_id"):
        clients.where(name="x")


def test_a_table_that_is_not_tracked_is_refused(engine):
    with pytest.raises(DeclarationError, match="not tracked"):
        Table(engine, CoreTable("plain", MetaData(), Column("id", Integer, primary_key=True)))
    with pytest.raises(DeclarationError, match="neither a table nor a mapped class"):
        Table(engine, dict)


def test_windows_are_for_date_times_of_keyed_tables(engine, clients):
    with pytest.raises(DeclarationError, match="append-only"):
        Table(engine, Log).where().within("created_at", HALF)
    with pytest.raises(DeclarationError, match="'name' is not one of its date-time columns"):
        clients.where().within("name", HALF)
    with pytest.raises(DeclarationError, match="positive"):
        clients.where().within("seen_at", timedelta(0))


def test_a_union_is_of_one_table_and_one_window(engine, clients):
    with pytest.raises(DeclarationError, match="a union"):
        clients.where(user_id=1) | Table(engine, Log).where()
    with pytest.raises(DeclarationError, match="a union"):
        clients.where(user_id=1) | clients.where(user_id=2).within("seen_at", HALF)


def test_equal_selections_are_one_to_the_hub(clients):
    one = clients.where(user_id=1, team_id=[2, 3])
    assert one.identity == clients.where(team_id=[3, 2]).where(user_id=1).identity
    assert one.identity != one.within("seen_at", HALF).identity


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"filters": ("nope",), "keyed": True}, "no column 'nope'"),
        ({"filters": ("id",)}, "for keyed tables"),
        ({"filters": "id", "keyed": True}, "give a list"),
        ({"indexes": ["id"]}, "give a list"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(options, said):
    with pytest.raises(DeclarationError, match=said):
        track_table(CoreTable("t", MetaData(), Column("id", Integer, primary_key=True)), **options)


def test_a_table_without_a_key_or_tracked_twice_is_refused():
    with pytest.raises(DeclarationError, match="no primary key"):
        track_table(CoreTable("t", MetaData(), Column("id", Integer)))
    with pytest.raises(DeclarationError, match="tracked already"):
        track()(Log)


async def test_triggers_of_another_declaration_are_noticed(engine):
    older = json.dumps({"keyed": True, "filters": ["team_id"]})
    await run(engine, "UPDATE headwater_tables SET declared = :older", older=older)
    with pytest.raises(SourceUnavailableError, match="add_tracking"):
        await Table(engine, Client).where().page(1)


async def test_triggers_that_are_gone_are_noticed(engine):
    await run(engine, "DROP TRIGGER headwater_logs_insert")
    with pytest.raises(SourceUnavailableError, match="its trigger 'insert' is gone"):
        await Table(engine, Log).origin.attach(Recorder())


async def test_a_database_without_the_table_is_away(tmp_path):
    engine = sqlite_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(SourceUnavailableError, match="migrated"):
        await Table(engine, Log).where().page(1)
    await engine.dispose()


# The ORM


async def test_the_orm_neither_loads_nor_writes_the_number(engine):
    assert not hasattr(Log, "headwater_change")
    async with AsyncSession(engine, expire_on_commit=False) as session:
        log = Log(user_id=1)
        session.add(log)
        await session.commit()
        await session.refresh(log)
        log.message = "x"
        await session.commit()
        merged = await session.merge(Log(id=log.id, user_id=2))
        await session.commit()
        assert merged.user_id == 2


class Renamed(Base):
    __tablename__ = "renamed"

    key: Mapped[int] = mapped_column("pk col", primary_key=True)
    owner: Mapped[int] = mapped_column('the "owner"')


track(keyed=True, filters=("owner",))(Renamed)


async def test_items_have_attribute_names(engine):
    table = Table(engine, Renamed)
    async with AsyncSession(engine) as session:
        row = Renamed(key=1, owner=5)
        session.add(row)
        await session.commit()
        await session.delete(row)
        await session.commit()
    page = await table.where(owner=5).page(5, after=RowPlace(0))
    assert [(c.key, c.values, c.removed) for c in page.changes] == [
        ({"key": 1}, {"key": 1, "owner": 5}, True)
    ]


# Pages


async def test_the_newest_and_those_before(logs):
    source = logs.where(user_id=1)
    page = await source.page(4)
    assert (ids(page), page.has_more) == ([5, 7, 9, 11], True)
    assert (str(page.start), str(page.end)) == ("5", "c")
    older = await source.page(4, before=page.start)
    assert (ids(older), older.has_more) == ([1, 3], False)
    assert str(older.end) == "4"
    assert ids(await source.page(9, after=older.end)) == [5, 7, 9, 11]


async def test_those_after_and_the_head_at_the_end(logs):
    source = logs.where(user_id=1)
    page = await source.page(5, after=RowPlace(1))
    assert (ids(page), page.has_more, str(page.end)) == ([3, 5, 7, 9, 11], False, "c")
    page = await source.page(4, after=RowPlace(1))
    assert (ids(page), page.has_more, str(page.end)) == ([3, 5, 7, 9], True, "9")


async def test_an_empty_page_starts_behind_what_the_client_has(logs):
    source = logs.where(user_id=1)
    page = await source.page(4, after=RowPlace(11))
    assert (ids(page), str(page.end)) == ([], "c")
    assert ids(await source.page(2, before=page.start)) == [9, 11]
    empty = await logs.where(user_id=77).page(4)
    assert (ids(empty), empty.has_more) == ([], False)
    assert ids(await logs.where(user_id=77).page(4, before=empty.start)) == []
    for place in (page.start, page.end, empty.start, empty.end):
        assert await source.locate(page.epoch, str(place)) == place


async def test_lists_unions_and_nothing(logs):
    assert ids(await logs.where(level=["error"], user_id=[0, 1]).page(9)) == [3, 6, 9, 12]
    union = logs.where(user_id=1) | logs.where(level="error")
    assert ids(await union.page(20)) == [1, 3, 5, 6, 7, 9, 11, 12]
    assert ids(await (union | logs.where()).page(3)) == [10, 11, 12]
    assert ids(await union.page(3)) == [9, 11, 12]
    assert ids(await union.page(3, after=RowPlace(3))) == [5, 6, 7]
    many = logs.where(user_id=list(range(40)))
    assert ids(await many.page(2)) == [11, 12]
    assert ids(await logs.where(user_id=[]).page(2)) == []


async def test_places_of_others_are_unknown(engine, logs):
    source = logs.where()
    epoch = (await source.page(1)).epoch
    for at, place in ((epoch, "d"), (epoch, "x y"), ("other", "1")):
        with pytest.raises(PositionError) as caught:
            await source.locate(at, place)
        assert caught.value.reason == "unknown"
    await logs.origin.attach(Recorder())
    assert str(await source.locate(epoch, "c")) == "c"
    with pytest.raises(PositionError):
        await source.locate(epoch, "d")
    await logs.origin.detach()


async def test_a_page_is_one_statement(engine, clients, logs):
    # The first one asks how the columns are compared.
    await logs.where().page(1)
    await clients.where().page(1)
    statements = []
    event.listen(
        engine.sync_engine, "before_cursor_execute", lambda c, cur, sql, *_: statements.append(sql)
    )
    # The first pages compare the tracking with the schema.
    await logs.where().page(3)
    await clients.where().page(3)
    statements.clear()
    await logs.where().page(3)
    await clients.where(user_id=1).within("seen_at", HALF).page(3, after=RowPlace(0))
    assert len(statements) == 2


PAGES = {
    "newest": {},
    "after": {"after": RowPlace(3)},
    "before": {"before": RowPlace(9)},
}


@pytest.mark.parametrize("asked", PAGES)
@pytest.mark.parametrize("selection", ["all", "one", "two columns", "union", "keyed"])
async def test_pages_use_an_index(engine, logs, clients, asked, selection):
    source = {
        "all": logs.where(),
        "one": logs.where(user_id=1),
        "two columns": logs.where(user_id=1, level="error"),
        "union": logs.where(user_id=1) | logs.where(user_id=2, level="error"),
        "keyed": clients.where(user_id=1, team_id=2),
    }[selection]
    seen = []
    event.listen(
        engine.sync_engine,
        "before_cursor_execute",
        lambda c, cur, sql, values, *_: seen.append((sql, values)),
    )
    if selection == "keyed":
        await run(engine, "INSERT INTO clients (id, user_id) VALUES ('a', 1)")
        asked_for = {name: RowPlace(1) for name in PAGES[asked]}
    else:
        asked_for = PAGES[asked]
    await source.page(1)  # compares the tracking with the schema
    seen.clear()
    await source.page(5, **asked_for)
    (sql, values), *_ = seen
    async with engine.connect() as connection:
        plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)
        steps = [row.detail for row in plan]
    # No scan of a stored table, and no sort of its rows: only the few that were picked.
    stored = ("logs", "clients", "headwater_tables", "headwater_removals")
    assert not [s for s in steps if s.startswith("SCAN") and any(t in s for t in stored)], steps
    wanted = {
        "all": "ix_logs_headwater_change",
        "one": "ix_logs_user_id_headwater_change",
        "two columns": "ix_logs_user_id_level_headwater_change",
        "union": "ix_logs_user_id_headwater_change",
        "keyed": "ix_clients_user_id_team_id_headwater_change",
    }[selection]
    assert any(f"INDEX {wanted}" in step for step in steps), steps


# Time windows


def window(clients):
    return clients.where(user_id=1).within("seen_at", HALF)


async def see(engine, key, moment, user=1):
    await run(
        engine,
        "INSERT INTO clients (id, user_id, seen_at) VALUES (:key, :user, :seen) "
        "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at",
        key=key,
        user=user,
        seen=moment.strftime("%Y-%m-%d %H:%M:%S"),
    )


async def test_a_window_shows_what_is_in_it_and_its_position_stands_still(engine, clients, clock):
    await see(engine, "a", START - timedelta(minutes=40))
    await see(engine, "b", START - timedelta(minutes=20))
    page = await window(clients).page(5)
    assert ids(page) == ["b"]
    assert page.changes[0].moment == START - timedelta(minutes=20)
    assert page.end == RowPlace(2, START - timedelta(minutes=10))
    clock.pass_(minutes=5)
    later = await window(clients).page(5)
    assert (later.end, later.as_of) == (page.end, START + timedelta(minutes=5))
    assert await window(clients).members() == [({"id": "b"}, START - timedelta(minutes=20))]
    clock.pass_(minutes=5)
    left = await window(clients).page(5)
    assert (ids(left), left.end) == ([], RowPlace(2, START + timedelta(minutes=10)))


async def test_each_leaving_is_told_once_also_in_pages_of_one(engine, clients, clock):
    for key, minutes in (("a", 25), ("b", 25), ("c", 20), ("d", 1)):
        await see(engine, key, START - timedelta(minutes=minutes))
    source = window(clients)
    place = (await source.page(9)).end
    assert place == RowPlace(4)
    clock.pass_(minutes=12)
    await see(engine, "e", clock.now)
    whole = await source.page(9, after=place)
    assert ids(whole) == ["-a", "-b", "-c", "e"]
    one_by_one = []
    for _ in range(4):
        page = await source.page(1, after=place)
        one_by_one += ids(page)
        place = RowPlace.parse(str(page.end))
        assert page.changes[0].place.includes(RowPlace(4))
    assert one_by_one == ids(whole)
    assert ids(await source.page(1, after=place)) == []
    assert place == RowPlace(5, START + timedelta(minutes=10))
    # And from the place of each single change.
    for at, change in enumerate(whole.changes):
        assert ids(await source.page(9, after=change.place)) == ids(whole)[at + 1 :]


async def test_what_left_and_was_then_deleted_is_not_told_twice(engine, clients, clock):
    await see(engine, "a", START - timedelta(minutes=25))
    source = window(clients)
    place = (await source.page(9)).end
    clock.pass_(minutes=10)
    page = await source.page(9, after=place)
    assert ids(page) == ["-a"]
    await run(engine, "DELETE FROM clients")
    assert ids(await source.page(9, after=page.end)) == []
    assert ids(await source.page(9, after=place)) == ["-a"]


async def test_a_moment_that_moves_back_or_vanishes_is_a_removal(engine, clients):
    for key in "ab":
        await see(engine, key, START)
    source = window(clients)
    place = (await source.page(9)).end
    await see(engine, "a", START - timedelta(hours=1))
    await run(engine, "UPDATE clients SET seen_at = NULL WHERE id = 'b'")
    assert ids(await source.page(9, after=place)) == ["-a", "-b"]
    assert ids(await source.page(9)) == []


async def test_all_windows_of_a_table_look_at_one_column(tmp_path):
    class Twice(Base):
        __tablename__ = "twice"
        id: Mapped[int] = mapped_column(primary_key=True)
        one: Mapped[datetime]
        two: Mapped[datetime]

    try:
        track(keyed=True)(Twice)
        engine = sqlite_engine(f"sqlite:///{tmp_path / 'twice.db'}")
        async with engine.begin() as connection:
            await connection.run_sync(Twice.__table__.create)
        table = Table(engine, Twice)
        source = table.where().within("one", HALF)
        with pytest.raises(DeclarationError, match="one column"):
            table.where().within("two", HALF)
        async with AsyncSession(engine) as session:  # naive date-times are UTC
            now = datetime.now(UTC).replace(tzinfo=None)
            session.add(Twice(id=1, one=now, two=now))
            await session.commit()
        page = await source.page(3)
        assert page.changes[0].moment == now.replace(tzinfo=UTC)
        assert page.changes[0].item["one"] == now
        await engine.dispose()
    finally:
        Base.metadata.remove(Twice.__table__)


# Retention


async def test_trim_by_count(logs):
    assert await logs.trim(max_count=5, grace=0) == 7
    assert await logs.trim(max_count=5, grace=0) == 0
    source = logs.where()
    assert ids(await source.page(20)) == [8, 9, 10, 11, 12]
    assert ids(await source.page(2, after=RowPlace(7))) == [8, 9]
    epoch = (await source.page(1)).epoch
    for ask in (source.page(2, after=RowPlace(6)), source.locate(epoch, "6")):
        with pytest.raises(PositionError) as caught:
            await ask
        assert caught.value.reason == "expired"


async def test_trim_by_age_in_steps(engine, clock):
    table = Table(engine, Log)
    table.reader.clock = clock
    old, new = START - timedelta(days=31), START - timedelta(days=29)
    async with engine.begin() as connection:
        rows = [{"user_id": 1, "created_at": old if n % 2 else new} for n in range(2600)]
        await connection.execute(insert(Log), rows)
    assert await table.trim(max_age=timedelta(days=30), column="created_at", grace=0) == 1300
    assert (await table.where().page(1)).end == RowPlace(2600)
    with pytest.raises(PositionError):
        await table.where().page(1, after=RowPlace(2599))
    assert len((await table.where().page(2000)).changes) == 1300


async def test_a_keyed_table_forgets_removals_and_keeps_rows(engine, clients, clock):
    await see(engine, "a", START)
    await see(engine, "b", START)
    await run(engine, "DELETE FROM clients WHERE id = 'a'")
    clock.now = datetime.now(UTC) + timedelta(hours=1)
    assert await clients.trim(max_age=timedelta(hours=2), grace=0) == 0
    assert await clients.trim(max_age=timedelta(minutes=30), grace=0) == 1
    assert ids(await clients.where().page(5)) == ["b"]
    assert ids(await clients.where().page(5, after=RowPlace(3))) == []
    with pytest.raises(PositionError, match="older than"):
        await clients.where().page(5, after=RowPlace(2))


@pytest.mark.parametrize(
    "options", [{}, {"max_age": HALF}, {"max_age": HALF, "column": "level"}, {"max_count": -1}]
)
async def test_a_trim_that_cannot_work_is_refused(engine, options):
    with pytest.raises(DeclarationError):
        await Table(engine, Log).trim(**options)


async def test_a_reader_that_is_cancelled_leaks_no_connection(engine, logs, caplog):
    """Clients vanish at any moment, also inside a database call."""
    for steps in range(60):
        task = asyncio.ensure_future(logs.where().page(5))
        for _ in range(steps % 20):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert len((await logs.where().page(5)).changes) == 5
    assert engine.pool.checkedout() == 0
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")]


async def test_a_walk_through_a_time_window_has_no_removal_of_what_left_long_ago(engine, clock):
    """A feed with ``limit="all"`` and a window: a table of years, of which few rows are shown."""
    table = Table(engine, Client)
    table.reader.clock = clock
    old = [{"id": f"o{n}", "user_id": 7, "seen_at": START - timedelta(days=9)} for n in range(20)]
    new = [{"id": f"n{n}", "user_id": 7, "seen_at": START} for n in range(5)]
    async with engine.begin() as connection:
        await connection.execute(insert(Client), old + new)
    source = table.where(user_id=7).within("seen_at", timedelta(hours=1))
    first = await source.page(2, after=source.nothing())
    assert [(c.key["id"], c.removed) for c in first.changes] == [("n0", False), ("n1", False)]
    async with engine.begin() as connection:
        late = START - timedelta(days=1)
        await connection.execute(update(Client).where(Client.id == "n0").values(seen_at=late))
    place = await source.locate(first.epoch, str(first.end))
    rest = await source.page(9, after=place)
    assert [(c.key["id"], c.removed) for c in rest.changes] == [
        ("n2", False), ("n3", False), ("n4", False), ("n0", True),
    ]  # fmt: skip
    assert not rest.has_more
    assert not (await source.page(9, after=rest.end)).changes
