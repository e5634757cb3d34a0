"""Tables as other people have them on PostgreSQL: exact, a reset, or a sentence at declaration."""

import enum
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.delivery._hub import Hub
from headwater.errors import DeclarationError, PositionError, SourceUnavailableError
from headwater.sql import Table, track_table
from headwater.sql.alembic import add_tracking
from headwater.testing import LiveClient
from headwater.web.fastapi import LiveRouter, Source
from support.until import until

LATE = datetime(2026, 1, 1, 0, 0, 0, 400_000)  # noqa: DTZ001 - a column without a zone

pytestmark = pytest.mark.long


async def run(engine, *statements):
    async with engine.begin() as connection:
        for sql in statements:
            await connection.exec_driver_sql(sql)


async def tracked(engine, *ddl, key=sa.Integer, word=sa.Integer):
    """A keyed table ``things``, filtered by ``word``."""
    await run(engine, *ddl)
    async with engine.begin() as connection:
        await connection.run_sync(add_tracking, "things", keyed=True, filters=["word"])
    columns = sa.Column("id", key, primary_key=True), sa.Column("word", word)
    table = sa.Table("things", sa.MetaData(), *columns)
    track_table(table, keyed=True, filters=["word"])
    return Table(engine, table)


PLAIN = "CREATE TABLE things (id int PRIMARY KEY, word int)"


@pytest.mark.parametrize(
    ("ddl", "said"),
    [
        (["CREATE UNLOGGED TABLE things (id int PRIMARY KEY, word int)"], "SET LOGGED"),
        (["CREATE TABLE things (id int PRIMARY KEY, word int[])"], "'word'.*arrays"),
        (["CREATE TABLE things (id int[] PRIMARY KEY, word int)"], "'id'.*arrays"),
        (
            [
                "CREATE TYPE pair AS (one int, other text)",
                "CREATE DOMAIN couple AS pair",
                "CREATE TABLE things (id int PRIMARY KEY, word couple)",
            ],
            "'word'.*records",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Did not recognize type")
async def test_what_cannot_be_exact_is_refused(engine, ddl, said):
    with pytest.raises(DeclarationError, match=said):
        await tracked(engine, *ddl)


async def test_a_filter_of_a_type_without_equality_makes_no_write_fail(engine):
    things = await tracked(
        engine,
        "CREATE TYPE mood AS ENUM ('a', 'b')",
        "CREATE DOMAIN word AS mood",
        "CREATE TABLE things (id int PRIMARY KEY, word word)",
        "INSERT INTO things VALUES (1, 'a')",
        word=sa.Text,
    )
    page = await things.where().page(9)
    await run(engine, "UPDATE things SET word = 'b'", "UPDATE things SET id = 2")
    changed = await things.where().page(9, after=page.end)
    told = [(each.key["id"], each.removed) for each in changed.changes]
    assert (told[0], told[-1]) == ((1, True), (2, False))


async def test_a_virtual_column_as_a_filter_is_refused(engine):
    """A trigger reads NULL in it."""
    ddl = "CREATE TABLE things (id int PRIMARY KEY, n int, word int AS (n * 2) VIRTUAL)"
    try:
        await run(engine, ddl.replace("AS (", "GENERATED ALWAYS AS ("))
    except sa.exc.DBAPIError:
        pytest.skip("PostgreSQL has virtual columns since 18")
    with pytest.raises(DeclarationError, match=r"'word'.*make it STORED"):
        await tracked(engine)


async def test_a_table_that_becomes_unlogged_is_found(engine):
    things = await tracked(engine, PLAIN)
    await run(engine, "ALTER TABLE things SET UNLOGGED")
    with pytest.raises(DeclarationError, match="SET LOGGED"):
        await things.where().page(1)


async def test_a_role_that_policies_hide_rows_from_is_refused(engine, postgres, database):
    things = await tracked(engine, PLAIN)
    role = f"reader_of_{database}"
    await run(
        engine,
        f"CREATE ROLE {role} LOGIN",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
    )
    url = postgres.url(database).replace("postgres@", f"{role}@")
    other = create_async_engine(url)
    reads = Table(other, things.reader.model.table)
    assert (await reads.where().page(1)).changes == []
    await run(
        engine,
        "ALTER TABLE things ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY seen ON things USING (word > 0)",
    )

    async def refused():
        try:
            await reads.where().page(1)
        except Exception as error:
            return "row-level security" in str(error)
        return False

    await until(refused, 5, pause=0.05)
    assert (await things.where().page(1)).changes == []
    await other.dispose()
    await run(engine, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_a_role_that_may_not_read_what_is_needed_is_named_until_it_may(
    engine, postgres, database
):
    things = await tracked(engine, PLAIN)
    role = f"reader_of_{database}"
    await run(engine, f"CREATE ROLE {role} LOGIN", f"GRANT SELECT ON things TO {role}")
    other = create_async_engine(postgres.url(database).replace("postgres@", f"{role}@"))
    reads = Table(other, things.reader.model.table)
    with pytest.raises(
        SourceUnavailableError, match="may not .* denied for table headwater_tables"
    ):
        await reads.where().page(1)
    await run(engine, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    assert (await reads.where().page(1)).changes == []
    await other.dispose()
    await run(engine, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_a_column_that_has_another_name_for_a_while(engine):
    """A removal of that time cannot name the value of a filter: its clients get a reset."""
    things = await tracked(engine, PLAIN, "INSERT INTO things VALUES (1, 7), (2, 7)")
    before = await things.where(word=7).page(9)
    await run(engine, "ALTER TABLE things RENAME COLUMN word TO words", "DELETE FROM things "
              "WHERE id = 1", "ALTER TABLE things RENAME COLUMN words TO word")  # fmt: skip
    with pytest.raises(PositionError):
        await things.where(word=7).locate(before.epoch, str(before.end))


async def test_a_schema_that_has_another_name_for_a_while(engine):
    """No write of the application fails, and what was missed is a reset."""
    things = await tracked(engine, PLAIN, "INSERT INTO things VALUES (1, 7), (2, 7), (3, 7)")
    before = await things.where(word=7).page(9)
    await run(engine, "ALTER SCHEMA public RENAME TO old", "CREATE SCHEMA public")
    await run(engine, "DELETE FROM old.things WHERE id = 1", "UPDATE old.things SET word = 8 "
              "WHERE id = 2", "INSERT INTO old.things VALUES (4, 7)")  # fmt: skip
    await run(engine, "DROP SCHEMA public", "ALTER SCHEMA old RENAME TO public")
    with pytest.raises(PositionError):
        await things.where(word=7).locate(before.epoch, str(before.end))
    after = await things.where(word=7).page(9)
    assert [change.key["id"] for change in after.changes] == [3, 4]
    await run(engine, "DELETE FROM things WHERE id = 3")
    gone = await things.where(word=7).page(9, after=after.end)
    assert [(change.key["id"], change.removed) for change in gone.changes] == [(3, True)]


async def test_json_of_every_kind_in_what_a_removal_keeps(engine):
    ddl = "CREATE TABLE things (id int PRIMARY KEY, word jsonb)"
    things = await tracked(engine, ddl, word=JSONB)
    before = await things.where().page(1)
    values = ['"x"', '{"a": 1}', "[1]", "7", "true"]
    rows = ", ".join(f"({at}, '{each}')" for at, each in enumerate(values))
    await run(engine, f"INSERT INTO things VALUES {rows}, (9, NULL)", "DELETE FROM things")
    gone = (await things.where().page(9, after=before.end)).changes
    kept = {change.key["id"]: change.values["word"] for change in gone if change.removed}
    assert kept == {0: "x", 1: {"a": 1}, 2: [1], 3: 7, 4: True, 9: None}


@pytest.mark.parametrize("kind", [JSONB, sa.JSON])
async def test_the_null_of_json_is_a_key_as_any_other(engine, kind):
    """A key of PostgreSQL holds no other NULL, so it is one item."""
    ddl = "CREATE TABLE things (id jsonb PRIMARY KEY, word int)"
    things = await tracked(engine, ddl, "INSERT INTO things VALUES ('null', 1)", key=kind)
    hub, got = Hub(), []
    try:
        page = await things.where().page(9)
        assert [change.item for change in page.changes] == [{"id": None, "word": 1}]
        await hub.subscribe(things.where(), got.extend)
        await run(engine, "INSERT INTO things VALUES ('\"null\"', 2)", "DELETE FROM things")
        await until(lambda: len(got) >= 2)
        removed = [change.key["id"] for change in got if change.removed]
        assert sorted(removed, key=str) == [None, "null"]
    finally:
        await hub.close()


async def test_a_length_of_time_is_no_moment(engine):
    things = await tracked(
        engine, "CREATE TABLE things (id interval PRIMARY KEY, word interval)",
        key=sa.Interval, word=sa.Interval,
    )  # fmt: skip
    day = timedelta(days=1)
    await run(engine, "INSERT INTO things VALUES ('1 day', '24 hours')")
    page = await things.where(word=day).page(9)
    assert [change.key["id"] for change in page.changes] == [day]
    await run(engine, "DELETE FROM things")
    gone = await things.where(word=day).page(9, after=page.end)
    assert [(change.key["id"], change.removed) for change in gone.changes] == [(day, True)]
    with pytest.raises(DeclarationError, match="date-time"):
        things.where().within("word", day)


@pytest.mark.parametrize(
    ("ddl", "kind", "values"),
    [
        ("text", sa.String(3), ["long one", "long two"]),
        ("bigint", sa.Integer, [2**40, 2**40 + 1]),
        ("numeric", sa.Numeric(9, 1), [Decimal("0.01"), Decimal("0.02")]),
        ("timestamptz", sa.DateTime, [datetime(2026, 1, 1, tzinfo=UTC), datetime.now(UTC)]),
    ],
)
async def test_a_model_may_say_less_of_a_type_than_the_table(engine, ddl, kind, values):
    """A model is seldom changed when a column becomes longer."""
    inserts = [f"INSERT INTO things VALUES ('{each}', 1)" for each in values]
    create = f"CREATE TABLE things (id {ddl} PRIMARY KEY, word int)"
    things = await tracked(engine, create, *inserts, key=kind)
    first = await things.where().page(1, after=things.reader.nothing())
    second = await things.where().page(1, after=first.end)
    shown = [change.item["id"] for page in (first, second) for change in page.changes]
    assert shown == values
    assert not second.has_more
    await run(engine, "DELETE FROM things")
    gone = await things.where().page(9, after=second.end)
    assert [change.key["id"] for change in gone.changes] == values


@pytest.mark.parametrize(
    ("kind", "condition", "value"),
    [
        (sa.String(3), lambda column: column != "abcd", "abc"),
        (sa.String(3), lambda column: column < "abcd", "abc"),
        (sa.CHAR(3), lambda column: column != "abcd", "abc"),
        (sa.Numeric(3, 1), lambda column: column < Decimal("1.04"), Decimal("1.0")),
        (TIMESTAMP(precision=0), lambda column: column < LATE, LATE.replace(microsecond=0)),
    ],
)
async def test_a_value_that_is_longer_than_its_column_is_not_cut(engine, kind, condition, value):
    table = sa.Table("things", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    table.append_column(sa.Column("word", kind))
    track_table(table, keyed=True, filters=["word"])
    async with engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
    app, live, things = FastAPI(), LiveRouter(), Table(engine, table)

    @live.feed("/things", item=dict, event="thing", keyed=True)
    async def feed() -> Source:
        return things.where(condition(table.c.word))

    app.include_router(live)
    async with LiveClient(app) as client, client.stream("/things/stream") as stream:
        await stream.next("snapshot")
        async with engine.begin() as connection:
            await connection.execute(table.insert().values(id=1, word=value))
        assert (await stream.next("thing")).json()["id"] == 1
        assert len((await client.get("/things")).json()["items"]) == 1


class Mood(enum.Enum):
    good = 1
    bad = 2


@pytest.fixture(params=["psycopg", "asyncpg"])
async def driven(request, postgres, database):
    engine = create_async_engine(postgres.url(database).replace("psycopg", request.param))
    yield engine
    await engine.dispose()


@pytest.mark.parametrize("kind", ["varchar(9)", "text", "feeling", "own.mood"])
async def test_an_enum_of_the_model_may_be_another_type_in_the_table(driven, kind):
    """psycopg lets the database say of which type a member is, and asyncpg asks for the type."""
    things = await tracked(
        driven,
        "CREATE SCHEMA own",
        "CREATE TYPE feeling AS ENUM ('good', 'bad')",
        "CREATE TYPE own.mood AS ENUM ('good', 'bad')",
        f"CREATE TABLE things (id int PRIMARY KEY, word {kind})",
        word=sa.Enum(Mood, name="mood"),
    )
    word, hub, got = things.reader.model.table.c.word, Hub(), []
    sources = [things.where(word != Mood.bad), things.where(word.in_([Mood.good])),
               things.where(word=Mood.good)]  # fmt: skip
    try:
        if driven.dialect.driver == "asyncpg":
            for source in sources:
                with pytest.raises(DeclarationError, match='"mood" does not exist'):
                    await hub.subscribe(source, got.extend)
            return
        for source in sources:
            await hub.subscribe(source, got.extend)
        await run(driven, "INSERT INTO things VALUES (1, 'good'), (2, 'bad')")
        await until(lambda: len(got) == 3)
        await run(driven, "UPDATE things SET word = 'bad'")
        await until(lambda: len(got) == 6)
        assert [(each.key["id"], each.removed) for each in got] == 3 * [(1, False)] + 3 * [
            (1, True)
        ]
        assert (await sources[0].page(9)).changes == []
    finally:
        await hub.close()
