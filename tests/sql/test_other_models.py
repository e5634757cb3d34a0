"""Models as other people have them: with a schema, long names, reflected or automapped."""

from functools import partial

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.automap import automap_base
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from headwater.errors import DeclarationError
from headwater.sql import LiveQuery, Table, postgresql_engine, sqlite_engine, track, track_table
from headwater.sql.alembic import add_tracking, drop_tracking


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
async def engine(request, tmp_path):
    if request.param == "sqlite":
        engine = sqlite_engine(f"sqlite:///{tmp_path}/data.db")
        yield engine
        await engine.dispose()
        return
    postgres = request.getfixturevalue("postgres")
    name = postgres.database()
    engine = postgresql_engine(postgres.url(name))
    yield engine
    await engine.dispose()
    postgres.drop(name)


async def do(engine, call, *arguments):
    async with engine.begin() as connection:
        return await connection.run_sync(call, *arguments)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_a_metadata_with_a_schema(engine):
    class Base(DeclarativeBase):
        metadata = sa.MetaData(schema="app")

    @track()
    class One(Base):
        __tablename__ = "one"
        id: Mapped[int] = mapped_column(primary_key=True)

    @track(keyed=True)
    class Two(Base):
        __tablename__ = "two"
        id: Mapped[int] = mapped_column(primary_key=True)

    @track(keyed=True)
    class Three(Base):
        __tablename__ = "three"
        id: Mapped[int] = mapped_column(primary_key=True)
        two: Mapped[int]

    joined = LiveQuery(
        engine, sa.select(Three.id, Two.id.label("two")).join(Two, Two.id == Three.two), key=["id"]
    )
    async with engine.begin() as connection:
        await connection.exec_driver_sql("CREATE SCHEMA app")
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(sa.insert(One).values(id=7))
        await connection.execute(sa.insert(Three).values(id=8, two=9))
    assert [c.item["id"] for c in (await Table(engine, One).where().page(3)).changes] == [7]
    assert (await Table(engine, Two).where().page(3)).changes == []
    assert (await joined.where().page(3)).changes == []
    async with engine.begin() as connection:
        await connection.execute(sa.insert(Two).values(id=9))
        own = await connection.run_sync(lambda it: sa.inspect(it).get_table_names(schema="app"))
    assert [c.item for c in (await joined.where().page(3)).changes] == [{"id": 8, "two": 9}]
    assert sorted(own) == ["one", "three", "two"]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
async def test_a_schema_on_sqlite_is_refused_with_a_sentence(engine):
    metadata = sa.MetaData()
    table = sa.Table("t", metadata, sa.Column("id", sa.Integer, primary_key=True), schema="app")
    track_table(table)
    with pytest.raises(DeclarationError, match="on SQLite a schema is another file"):
        Table(engine, table)


async def test_long_and_ambiguous_names_of_indexes(engine):
    """PostgreSQL keeps 63 bytes of a name, and ``ix_a_b_c`` may be of two tables."""
    metadata, every = sa.MetaData(), {}
    runs = {
        "a": "b_c",
        "a_b": "c",
        "a_long_name_of_a_table_with_an_end_1": "a_long_name_of_a_column_too",
        "a_long_name_of_a_table_with_an_end_2": "a_long_name_of_a_column_too",
    }
    for name, column in runs.items():
        key = sa.Column("id", sa.Integer, primary_key=True)
        every[name] = sa.Table(name, metadata, key, sa.Column(column, sa.Integer))
        track_table(every[name], indexes=[(column,)])

    def indexed(connection):
        found = sa.inspect(connection)
        return {
            (name, index["column_names"][0])
            for name in runs
            for index in found.get_indexes(name)
            if "headwater_change" in index["column_names"]
        }

    wanted = {(name, first) for name, run in runs.items() for first in (run, "headwater_change")}
    await do(engine, metadata.create_all)
    assert await do(engine, indexed) == wanted
    for name in runs:
        await do(engine, drop_tracking, name)
    for name, column in runs.items():
        await do(engine, partial(add_tracking, table=name, indexes=[(column,)]))
    assert await do(engine, indexed) == wanted


async def test_reflected_and_automapped_tables(engine):
    async with engine.begin() as connection:
        for name in ("one", "two"):
            await connection.exec_driver_sql(
                f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, name VARCHAR(9))"
            )
            await connection.run_sync(add_tracking, name)
    metadata = sa.MetaData()
    await do(engine, metadata.reflect)
    one = metadata.tables["one"]
    track_table(one)
    automapped = automap_base()
    await do(engine, lambda connection: automapped.prepare(autoload_with=connection))
    two = automapped.classes.two
    track_table(two)

    def write(connection):
        connection.execute(one.insert().values(id=1, name="x"))
        with Session(connection) as session:
            session.add(two(id=2, name="y"))
            session.flush()
            session.commit()

    await do(engine, write)
    assert [c.item for c in (await Table(engine, one).where().page(3)).changes] == [
        {"id": 1, "name": "x"}
    ]
    assert [c.item for c in (await Table(engine, two).where().page(3)).changes] == [
        {"id": 2, "name": "y"}
    ]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize("made", ["create_all", "add_tracking"])
async def test_strict_tables(engine, made):
    """SQLite's STRICT takes six names of types."""
    metadata = sa.MetaData()
    key, text = sa.Column("id", sa.Integer, primary_key=True), sa.Column("word", sa.Text)
    table = sa.Table("words", metadata, key, text, sqlite_strict=True)
    track_table(table, keyed=True)
    query = LiveQuery(engine, sa.select(table), key=["id"])
    async with engine.begin() as connection:
        if made == "add_tracking":
            sql = "CREATE TABLE words (id INTEGER PRIMARY KEY, word TEXT) STRICT"
            await connection.exec_driver_sql(sql)
            track = partial(add_tracking, table="words", keyed=True, links=["id"])
            await connection.run_sync(track)
        else:
            await connection.run_sync(metadata.create_all)
        await connection.execute(table.insert().values(id=7, word="x"))
    for source in (Table(engine, table).where(), query.where()):
        assert [c.item["id"] for c in (await source.page(3)).changes] == [7]


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_a_translated_schema_is_refused_with_what_to_do(engine):
    metadata = sa.MetaData()
    table = sa.Table("words", metadata, sa.Column("id", sa.Integer, primary_key=True))
    track_table(table)
    await do(engine, lambda connection: connection.exec_driver_sql("CREATE SCHEMA tenant"))
    translated = engine.execution_options(schema_translate_map={None: "tenant"})
    with pytest.raises(DeclarationError, match="schema_translate_map=: give the table its schema"):
        await do(translated, metadata.create_all)
