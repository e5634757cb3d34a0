"""Tables that cannot be changed: what the weaker mode keeps, and where it fails."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, insert, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.delivery._hub import Hub
from headwater.errors import DeclarationError, PositionError
from headwater.feeds._feed import Feed
from headwater.feeds._position import Position
from headwater.sql import Table, sqlite_engine
from headwater.sql.untracked._place import MOST, KeysetPlace, RowAt
from support.streams import StreamClient
from support.tables import START, Aware, Recorder
from support.until import until

NOTES = Feed("notes", collection="notes", event="note")


class Own(DeclarativeBase):
    pass


class Note(Own):
    """Somebody else's table."""

    __tablename__ = "notes"
    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(server_default="1")
    created_at: Mapped[datetime | None] = mapped_column(Aware)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
async def engine(request, tmp_path):
    if request.param == "sqlite":
        engine = sqlite_engine(f"sqlite:///{tmp_path / 'd.db'}")
    else:
        postgres = request.getfixturevalue("postgres")
        name = postgres.database()
        engine = create_async_engine(postgres.url(name))
    async with engine.begin() as connection:
        await connection.run_sync(Own.metadata.create_all)
    yield engine
    await engine.dispose()
    if request.param == "postgresql":
        postgres.drop(name)


@pytest.fixture
async def notes(engine):
    table = Table.untracked(engine, Note, order_by="created_at")
    yield table
    await table.origin.detach()


async def add(engine, *rows, user=1):
    """Rows by name and seconds after the start."""
    async with engine.begin() as connection:
        await connection.execute(
            insert(Note),
            [
                {"id": name, "user_id": user, "created_at": START + timedelta(seconds=seconds)}
                for name, seconds in rows
            ],
        )


def ids(page):
    return [change.item["id"] for change in page.changes]


async def back(source, page, place):
    return await source.locate(page.epoch, str(place))


async def test_rows_are_told_once_in_the_order_of_their_moments(engine, notes):
    sink = Recorder()
    await add(engine, ("before", -100))
    await notes.origin.attach(sink)
    await add(engine, ("b", 1), ("a", 1), ("c", 0))
    await sink.count(3)
    await add(engine, ("d", 1))
    await sink.count(4)
    assert [change.item["id"] for change in sink.changes] == ["c", "a", "b", "d"]


async def test_a_row_that_is_a_little_late_is_told(engine, notes):
    sink = Recorder()
    await notes.origin.attach(sink)
    await add(engine, ("new", 10))
    await sink.count(1)
    await add(engine, ("late", 6))
    await sink.count(2)
    assert [change.item["id"] for change in sink.changes] == ["new", "late"]


async def test_where_it_fails_a_row_that_is_later_than_that_is_lost(engine, notes):
    """As by a transaction that was open for longer. Tracking the table is what mends it."""
    sink = Recorder()
    await notes.origin.attach(sink)
    source = notes.where()
    await add(engine, ("new", 10))
    await sink.count(1)
    page = await source.page(5)
    await add(engine, ("too late", 4.9))
    await add(engine, ("next", 11))
    await sink.count(2)
    assert [change.item["id"] for change in sink.changes] == ["new", "next"]
    assert ids(await source.page(5, after=await back(source, page, page.end))) == ["next"]
    # Whoever looks at the pages finds it.
    assert ids(await source.page(5)) == ["too late", "new", "next"]


async def test_where_it_fails_a_moment_that_changes_is_another_row(engine, notes):
    sink = Recorder()
    await notes.origin.attach(sink)
    await add(engine, ("a", 0))
    await sink.count(1)
    async with engine.begin() as connection:
        at: object = datetime(2026, 3, 1, 12, 0, 30)
        if engine.dialect.name == "sqlite":
            at = "2026-03-01 12:00:30.000000"
        await connection.execute(text("UPDATE notes SET created_at = :at"), {"at": at})
    await add(engine, ("b", 31))
    await sink.until(lambda sink: sink.changes[-1].item["id"] == "b")
    assert [change.item["id"] for change in sink.changes] in (["a", "b"], ["a", "a", "b"])


async def test_pages_in_both_directions(engine, notes):
    await add(engine, *((f"n{n}", n) for n in range(9)))
    await add(engine, ("other", 4), user=2)
    source = notes.where(user_id=1)
    page = await source.page(3)
    assert (ids(page), page.has_more) == (["n6", "n7", "n8"], True)
    older = await source.page(4, before=await back(source, page, page.start))
    assert (ids(older), older.has_more) == (["n2", "n3", "n4", "n5"], True)
    newer = await source.page(3, after=await back(source, older, older.end))
    assert (ids(newer), newer.has_more) == (["n6", "n7", "n8"], False)
    assert ids(await source.page(3, after=await back(source, newer, newer.end))) == []
    first = await source.page(4, before=older.start)
    assert (ids(first), first.has_more) == (["n0", "n1"], False)
    assert ids(await source.page(4, before=first.start)) == []
    few = await source.page(2, after=await back(source, older, older.end))
    assert (ids(few), few.has_more) == (["n6", "n7"], True)
    assert ids(await source.page(2, after=await back(source, few, few.end))) == ["n8"]


async def test_a_client_resumes_from_any_row(engine, notes):
    source = notes.where()
    start = await source.page(1)
    await add(engine, *((f"n{n:03}", n % 3) for n in range(40)))
    whole = await source.page(100, after=start.end)
    assert len(ids(whole)) == 40
    for at, change in enumerate(whole.changes):
        place = await back(source, whole, change.place)
        assert ids(await source.page(100, after=place)) == ids(whole)[at + 1 :]


async def test_many_rows_at_once_shorten_what_is_read_again(engine, notes):
    source = notes.where()
    start = await source.page(1)
    await add(engine, *((f"n{n:04}", n / 400) for n in range(1500)))
    sink = Recorder()
    place, told = start.end, []
    while True:
        page = await source.page(100, after=place)
        told += ids(page)
        place = await back(source, page, page.end)
        assert len(str(place)) < 1800
        if not page.has_more:
            break
    assert told == [f"n{n:04}" for n in range(1500)]
    await notes.origin.attach(sink)
    await add(engine, ("late", 1499 / 400 - 0.1))
    await sink.count(1)
    assert ids(await source.page(9, after=place)) == ["late"]


async def test_streams_through_the_hub(engine, notes):
    hub = Hub()
    source = notes.where(user_id=1)
    clients = [StreamClient(NOTES) for _ in range(3)]
    await add(engine, ("a", 0))
    for client in clients:
        await client.connect(hub, source)
    await add(engine, ("c", 2), ("b", 1))
    await add(engine, ("late", 0.5), ("d", 3))
    await until(lambda: clients[0].read() or len(clients[0].told) == 5)
    clients[1].leave(most=2)
    clients[2].leave(most=0)
    await add(engine, ("e", 4))
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM notes WHERE id = 'd'"))
    await add(engine, ("f", 4.5), ("x", 4.6), user=1)
    for client in clients[1:]:
        await client.connect(hub, source)
    wanted = {"a", "b", "c", "d", "e", "f", "x", "late"}
    for client in clients:
        await until(lambda client=client: client.read() or {"f", "x"} <= set(client.told))
        assert len(set(client.told)) == len(client.told)
        assert wanted - {"d"} <= set(client.told) <= wanted
    assert hub.streams.counters.reread < 10
    await hub.close()


async def test_one_statement_for_each_look(engine, notes):
    await notes.where().page(1)
    sink = Recorder()
    await notes.origin.attach(sink)
    statements = []
    event.listen(
        engine.sync_engine, "before_cursor_execute", lambda c, cur, sql, *_: statements.append(sql)
    )
    await add(engine, ("a", 0))
    await sink.count(1)
    await asyncio.sleep(0)
    assert len(statements) <= 5


async def test_what_cannot_work_is_refused(engine, notes):
    with pytest.raises(DeclarationError, match="'user_id' is not one of its date-time columns"):
        Table.untracked(engine, Note, order_by="user_id")
    with pytest.raises(DeclarationError, match="negative"):
        Table.untracked(engine, Note, order_by="created_at", reread=timedelta(-1))
    with pytest.raises(DeclarationError, match="append-only"):
        notes.where().within("created_at", timedelta(1))
    with pytest.raises(DeclarationError, match="cannot be filtered by 'x'"):
        notes.where(x=1)
    with pytest.raises(DeclarationError, match="not tracked"):
        await notes.trim(max_count=3)
    page = await notes.where().page(1)
    for epoch, place in (("other", str(page.end)), (page.epoch, "nonsense")):
        with pytest.raises(PositionError):
            await notes.where().locate(epoch, place)


moments = st.datetimes(datetime(1, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))
marks = st.dictionaries(st.from_regex(r"[0-9A-Za-z_-]{6}", fullmatch=True), st.none(), max_size=9)
rows = st.builds(RowAt, moments, st.lists(st.text(max_size=9), max_size=3).map(json.dumps))


@given(st.builds(KeysetPlace, moments, marks, st.none() | rows, st.booleans()))
def test_text_and_back(place):
    assert KeysetPlace.parse(str(place)) == place
    Position("abc", "1", str(place))


def test_the_longest_place_fits_a_position():
    seen = {f"{number:06}": None for number in range(MOST)}
    place = str(KeysetPlace(START, seen))
    assert place in str(Position("abc", "1", place))


@pytest.mark.long
async def test_a_date_that_python_has_not_is_left_out_and_other_values_stop_one_item(postgres):
    engine = create_async_engine(postgres.url(name := postgres.database()))
    columns = (
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.DateTime),
        sa.Column("day", sa.Date),
    )
    table = sa.Table("dated", sa.MetaData(), *columns)
    async with engine.begin() as connection:
        await connection.run_sync(table.create)
        for values in ["1, 'infinity', NULL", "2, '0044-01-01 BC', NULL", "3, now(), 'infinity'"]:
            await connection.execute(text(f"INSERT INTO dated (id, at, day) VALUES ({values})"))
    dated, sink = Table.untracked(engine, table, order_by="at"), Recorder()
    page = await dated.where().page(9)
    assert [change.item["id"] for change in page.changes] == [3]
    await dated.origin.attach(sink)
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO dated (id, at) VALUES (4, now())"))
        await connection.execute(
            text("INSERT INTO dated (id, at, day) VALUES (5, now(), '-infinity')")
        )
    await sink.count(2)
    assert [change.item["id"] for change in sink.changes] == [4, 5]
    await dated.origin.detach()
    await engine.dispose()
    postgres.drop(name)
