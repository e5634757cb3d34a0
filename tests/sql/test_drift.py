"""Schemas change under running applications. Reads say what is wrong, and recover by themselves."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater import Hub
from headwater.errors import PositionError, SourceUnavailableError
from headwater.sql import Table, postgresql_engine, sqlite_engine, track
from headwater.sql.alembic import add_tracking
from headwater.testing import LiveClient
from headwater.web.fastapi import LiveRouter, Source
from support.tables import Recorder, fails
from support.until import until


class Base(DeclarativeBase):
    pass


@track(keyed=True, filters=("owner",))
class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[int]
    name: Mapped[str | None]


@track()
class Line(Base):
    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    word: Mapped[str | None]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
async def engine(request, tmp_path):
    if request.param == "sqlite":
        engine = sqlite_engine(f"sqlite:///{tmp_path}/data.db")
        drop = None
    else:
        postgres = request.getfixturevalue("postgres")
        name = postgres.database()
        engine = postgresql_engine(postgres.url(name))
        drop = postgres.drop
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()
    if drop is not None:
        drop(name)


async def run(engine, *statements):
    async with engine.begin() as connection:
        for sql in statements:
            await connection.execute(sa.text(sql))


async def mend(engine, table, **options):
    async with engine.begin() as connection:
        await connection.run_sync(add_tracking, table, **options)


def on(engine, table):
    return "" if engine.dialect.name == "sqlite" else f" ON {table}"


async def test_a_table_that_was_made_before_its_tracking_says_what_mends_it(engine):
    """As of somebody who adds `track()` to a model: `create_all` leaves tables that exist."""
    table = Table(engine, Line)
    await run(engine, "DROP TABLE lines", "CREATE TABLE lines (id INTEGER PRIMARY KEY, word TEXT)")
    await run(engine, "DELETE FROM headwater_tables WHERE name = 'lines'")
    await fails(table, "the database does not track it. A migration with add_tracking(op, 'lines')")
    await mend(engine, "lines")
    assert (await table.where().page(1)).changes == []


async def test_a_trigger_that_is_gone_is_found_and_mended(engine):
    table = Table(engine, Note)
    await run(engine, "INSERT INTO notes (id, owner) VALUES (1, 1)")
    page = await table.where().page(3)
    kind = "delete" if engine.dialect.name == "sqlite" else "deleted"
    await run(engine, f"DROP TRIGGER headwater_notes_{kind}{on(engine, 'notes')}")
    await fails(table, "add_tracking(op, 'notes', keyed=True, filters=['owner'])")
    await run(engine, "DELETE FROM notes")
    await mend(engine, "notes", keyed=True, filters=["owner"])
    # The delete was missed, so a client from before gets a reset.
    with pytest.raises(PositionError):
        await table.where().locate(page.epoch, str(page.end))
    assert (await table.where().page(3)).changes == []


async def test_a_tail_waits_for_the_mending_and_is_reset(engine):
    table, sink = Table(engine, Note), Recorder()
    await table.origin.attach(sink)
    kind = "delete" if engine.dialect.name == "sqlite" else "deleted"
    await run(engine, f"DROP TRIGGER headwater_notes_{kind}{on(engine, 'notes')}")
    await fails(table, "mends it")
    await sink.until(lambda sink: sink.interrupts)
    await mend(engine, "notes", keyed=True, filters=["owner"])
    await sink.until(lambda sink: sink.resets)
    await run(engine, "INSERT INTO notes (id, owner) VALUES (1, 1)")
    await sink.until(lambda sink: sink.changes)
    await table.origin.detach()


async def test_a_renamed_table_keeps_its_positions(engine):
    old = Table(engine, Note)
    await run(engine, "INSERT INTO notes (id, owner) VALUES (1, 1)")
    before = await old.where().page(3)
    await run(engine, "ALTER TABLE notes RENAME TO memos")

    class Other(DeclarativeBase):
        pass

    @track(keyed=True, filters=("owner",))
    class Memo(Other):
        __tablename__ = "memos"
        id: Mapped[int] = mapped_column(primary_key=True)
        owner: Mapped[int]

    memos = Table(engine, Memo)
    for _ in range(2):
        place = await memos.where().locate(before.epoch, str(before.end))
        await run(
            engine, "INSERT INTO memos (id, owner) VALUES (2, 1)", "DELETE FROM memos WHERE id = 2"
        )
        page = await memos.where().page(9, after=place)
        assert [c.key["id"] for c in page.changes if c.removed] == [2]
        await mend(engine, "memos", keyed=True, filters=["owner"])
        before = await memos.where().page(3)
    # A new table of the old name has a registration and an epoch of its own.
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    fresh = Table(engine, Note)
    assert (await fresh.where().page(3)).changes == []
    assert (await fresh.where().page(3)).epoch != (await memos.where().page(3)).epoch
    await run(engine, "INSERT INTO notes (id, owner) VALUES (5, 1)")
    assert [c.item["id"] for c in (await memos.where().page(3)).changes] == [1]
    assert [c.item["id"] for c in (await fresh.where().page(3)).changes] == [5]


async def test_a_column_that_is_missing_is_named(engine):
    table = Table(engine, Line)
    await table.where().page(1)
    await run(engine, "ALTER TABLE lines RENAME COLUMN word TO words")
    await fails(table, "it has no column 'word'")
    await run(engine, "INSERT INTO lines (id) VALUES (1)")
    await run(engine, "ALTER TABLE lines RENAME COLUMN words TO word")

    async def works():
        try:
            return len((await table.where().page(1)).changes) == 1
        except SourceUnavailableError:
            return False

    await until(works, 5, pause=0.05)


async def test_a_column_that_compares_otherwise_since_a_migration(engine):
    table = Table(engine, Line)
    await table.where().page(1)
    assert "word" not in table.reader.judged
    if engine.dialect.name == "sqlite":
        await run(
            engine,
            "DROP TABLE lines",
            "CREATE TABLE lines (id INTEGER PRIMARY KEY, word TEXT COLLATE NOCASE)",
        )
        await mend(engine, "lines")
        written = "ONE"
    else:
        await run(engine, "ALTER TABLE lines ALTER COLUMN word TYPE char(9)")
        written = "one"

    async def compared_by_the_database():
        await table.where().page(1)  # a read once a second notices it
        return "word" in table.reader.judged

    await until(compared_by_the_database, 5, pause=0.05)
    hub, came = Hub(io_uring=False), asyncio.Event()
    await hub.subscribe(table.where(word="one"), lambda _: came.set())
    await run(engine, f"INSERT INTO lines (word) VALUES ('{written}')")
    await asyncio.wait_for(came.wait(), 5)
    await hub.close()


class LineItem(BaseModel):
    id: int


def application(table):
    live, app = LiveRouter(), FastAPI()

    @live.feed("/lines", item=LineItem, collection="lines", event="line")
    async def lines() -> Source:
        return table.where()

    app.include_router(live, prefix="/api")
    return app


async def page_of(client, **where):
    """The page, once the difference was mended."""
    found = None

    async def mended():
        nonlocal found
        found = await client.get("/api/lines", params=where)
        return found.status_code == 200

    await until(mended, 5, pause=0.05)
    return found.json()


@asynccontextmanager
async def stream_of(client, place):
    """A stream that goes on, once the difference was mended, and its first message."""
    for _ in range(50):
        async with client.stream("/api/lines/stream", last_event_id=place) as stream:
            try:
                first = await stream.next()
            except AssertionError:
                await asyncio.sleep(0.1)  # as a client does that was told to come back
                continue
            yield stream, first
            return
    raise AssertionError("no stream was opened")


async def test_pages_and_streams_say_what_is_wrong(engine):
    """A page answers 503; a stream answers 200, so that browsers come back, and ends."""
    await run(engine, f"DROP TRIGGER headwater_lines_insert{on(engine, 'lines')}")
    transport = httpx.ASGITransport(application(Table(engine, Line)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        page = await client.get("/api/lines")
        assert page.status_code == 503
        assert "add_tracking(op, 'lines')" in page.json()["detail"]
        stream = await client.get("/api/lines/stream")
        assert stream.status_code == 200
        assert stream.headers["retry-after"] == "2"
        assert "retry:" in stream.text
        assert "add_tracking(op, 'lines')" in stream.text
        await mend(engine, "lines")
        assert (await client.get("/api/lines")).json()["lines"] == []


async def test_open_streams_end_with_the_sentence_and_go_on_when_it_is_mended(engine):
    async with LiveClient(application(Table(engine, Line)), patience=10) as client:
        async with client.stream("/api/lines/stream") as stream:
            snapshot = await stream.next("snapshot")
            waiting = asyncio.create_task(
                client.get(f"/api/lines?wait=30&after={snapshot.last_event_id}")
            )
            await run(engine, f"DROP TRIGGER headwater_lines_insert{on(engine, 'lines')}")
            assert "add_tracking(op, 'lines')" in await stream.comment()
            assert await stream.end() == []
            assert 2000 <= stream.retry <= 5000
        assert (await waiting).status_code == 503
        # A client that comes back meanwhile is not let in to wait in silence.
        place = snapshot.last_event_id
        async with client.stream("/api/lines/stream", last_event_id=place) as stream:
            assert "add_tracking(op, 'lines')" in await stream.comment()
            assert await stream.end() == []
        await mend(engine, "lines")
        assert (await page_of(client))["lines"] == []
        async with stream_of(client, place) as (stream, first):
            assert first.event == "reset"
            await stream.next("snapshot")
            await run(engine, "INSERT INTO lines (id) VALUES (1)")
            assert (await stream.next("line")).json() == {"id": 1}


@pytest.mark.parametrize("view", [False, True])
async def test_a_table_that_is_renamed_under_open_streams(engine, view):
    """A view of the old name may stand there for other programs."""
    async with LiveClient(application(Table(engine, Line)), patience=10) as client:
        async with client.stream("/api/lines/stream") as stream:
            place = (await stream.next("snapshot")).last_event_id
            other = ["CREATE VIEW lines AS SELECT * FROM rows_of_lines"] if view else []
            await run(engine, "ALTER TABLE lines RENAME TO rows_of_lines", *other)
            said = "is a view" if view else "a table is missing"
            assert said in await stream.comment()
            assert await stream.end() == []
        page = await client.get("/api/lines")
        assert page.status_code == 503
        assert said in page.json()["detail"]
        await run(engine, "INSERT INTO rows_of_lines (id) VALUES (1)")
        other = ["DROP VIEW lines"] if view else []
        await run(engine, *other, "ALTER TABLE rows_of_lines RENAME TO lines")
        async with stream_of(client, place) as (_, first):
            assert (first.event, first.json()) == ("line", {"id": 1})


async def test_streams_come_back_when_a_column_compares_otherwise(engine):
    """They wait for a value that the database alone can compare since the migration."""
    live, app, table = LiveRouter(), FastAPI(), Table(engine, Line)

    @live.feed("/words", item=LineItem, collection="words", event="word")
    async def words(word: str) -> Source:
        return table.where(word=word)

    app.include_router(live, prefix="/api")
    async with LiveClient(app, patience=10) as client:
        async with client.stream("/api/words/stream?word=one") as stream:
            place = (await stream.next("snapshot")).last_event_id
            if engine.dialect.name == "sqlite":
                written, changed = (
                    "ONE",
                    [
                        "ALTER TABLE lines DROP COLUMN word",
                        "ALTER TABLE lines ADD COLUMN word TEXT COLLATE NOCASE",
                    ],
                )
            else:
                written, changed = "one", ["ALTER TABLE lines ALTER COLUMN word TYPE char(9)"]
            await run(engine, *changed, f"INSERT INTO lines (id, word) VALUES (1, '{written}')")
            assert "compare differently since a migration" in await stream.comment()
            assert await stream.end() == []
        async with client.stream("/api/words/stream?word=one", last_event_id=place) as stream:
            assert (await stream.next("word")).json() == {"id": 1}
            await run(engine, f"INSERT INTO lines (id, word) VALUES (2, '{written}')")
            assert (await stream.next("word")).json() == {"id": 2}
