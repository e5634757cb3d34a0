"""Tracking is added to tables that are in use: no long lock, nothing rewritten, nothing missed."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.errors import DeclarationError
from headwater.sql import Table, track
from headwater.sql.alembic import add_tracking, drop_tracking, include_object
from support.tables import Base, Recorder
from support.until import waited

pytestmark = pytest.mark.long


class Own(DeclarativeBase):
    pass


@track(indexes=[("user_id",)])
class Big(Own):
    __tablename__ = "big"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int]


@pytest.fixture
def connection(postgres, database):
    """In AUTOCOMMIT, as in Alembic's autocommit_block."""
    engine = sa.create_engine(postgres.url(database))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE TABLE big (id serial PRIMARY KEY, user_id int NOT NULL)"))
        connection.execute(text("INSERT INTO big (user_id) SELECT 1 FROM generate_series(1, 5000)"))
        yield connection
    engine.dispose()


def told_apart(connection):
    found = connection.execute(
        text("SELECT count(*) FILTER (WHERE headwater_change = '0'), count(*) FROM big")
    )
    return tuple(found.one())


async def test_rows_that_were_there_are_before_all_others(connection, engine, caplog):
    caplog.set_level(logging.INFO, "headwater.sql")
    add_tracking(connection, "big", indexes=[("user_id",)])
    assert told_apart(connection) == (5000, 5000)
    assert "nothing is rewritten" in caplog.text
    assert "writers go on meanwhile" in caplog.text
    table, sink = Table(engine, Big), Recorder()
    await table.origin.attach(sink)
    connection.execute(text("INSERT INTO big (user_id) VALUES (2)"))
    await sink.count(1)
    assert told_apart(connection) == (5000, 5001)
    page = await table.where(user_id=1).page(3)
    assert [change.item["id"] for change in page.changes] == [4998, 4999, 5000]
    older = await table.where(user_id=1).page(3, before=page.start)
    assert [change.item["id"] for change in older.changes] == [4995, 4996, 4997]
    await table.origin.detach()


def test_the_table_is_not_rewritten(connection):
    where = text("SELECT pg_relation_filenode('big')")
    before = connection.scalar(where)
    add_tracking(connection, "big", keyed=True, filters=["user_id"])
    assert connection.scalar(where) == before


async def test_no_lock_is_held_while_indexes_are_built(postgres, database, connection):
    """Writes begin and end within one build, and all that was written is tracked."""
    writer = await psycopg.AsyncConnection.connect(postgres.conninfo(database), autocommit=True)
    loop = asyncio.get_running_loop()
    connection.execute(text("INSERT INTO big (user_id) SELECT 1 FROM generate_series(1, 200000)"))
    adding = loop.run_in_executor(
        None, lambda: add_tracking(connection, "big", indexes=[("user_id",)])
    )

    async def building():
        """The build that is under way, by when it began."""
        found = await writer.execute(
            "SELECT query_start FROM pg_stat_activity WHERE datname = current_database()"
            " AND state = 'active' AND query LIKE 'CREATE INDEX%'"
        )
        return await found.fetchone()

    within = count = 0
    while not adding.done():
        build = await building()
        await writer.execute("INSERT INTO big (user_id) VALUES (3)")
        count += 1
        # Under a lock a write that begins in a build ends after it.
        within += build is not None and await building() == build
    await adding
    await writer.close()
    assert within > 0
    assert told_apart(connection)[1] == 205_000 + count


def test_it_gives_up_rather_than_make_all_others_wait(postgres, database, connection, monkeypatch):
    monkeypatch.setattr("headwater.sql.postgresql._locks.PATIENCE", (0.02, 0.05))
    with psycopg.connect(postgres.conninfo(database)) as reader:
        reader.execute("SELECT count(*) FROM big")
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            add_tracking(connection, "big")
        reader.rollback()
    add_tracking(connection, "big")
    assert told_apart(connection) == (5000, 5000)


@pytest.mark.parametrize("links", [(), ("user_id",)])
def test_others_write_on_while_it_waits_for_a_long_transaction(
    postgres, database, connection, monkeypatch, links
):
    monkeypatch.setattr("headwater.sql.postgresql._locks.PATIENCE", (0.05,) * 200)
    options = {"keyed": True, "filters": ["user_id"]}
    if links:
        add_tracking(connection, "big", **options)
    conninfo = postgres.conninfo(database)
    with (
        psycopg.connect(conninfo) as reader,
        psycopg.connect(conninfo, autocommit=True) as writer,
        ThreadPoolExecutor() as pool,
    ):
        reader.execute("SELECT count(*) FROM big")
        adding = pool.submit(add_tracking, connection, "big", **options, links=links)
        waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'big'::regclass AND NOT granted"
        for _ in range(3):
            waited(lambda: writer.execute(waiting).fetchone()[0])
            writer.execute("INSERT INTO big (user_id) VALUES (3)")
        assert not adding.done()
        reader.rollback()
        adding.result(20)
    assert told_apart(connection)[1] == 5003


def test_in_the_callers_transaction_too_and_leaves_it_its_own_patience(
    postgres, database, connection, monkeypatch
):
    monkeypatch.setattr("headwater.sql.postgresql._locks.PATIENCE", (0.02, 0.05))
    engine = sa.create_engine(postgres.url(database))
    with psycopg.connect(postgres.conninfo(database)) as reader:
        reader.execute("SELECT count(*) FROM big")
        with (
            pytest.raises(sa.exc.OperationalError, match="lock timeout"),
            engine.begin() as transaction,
        ):
            add_tracking(transaction, "big")
        reader.rollback()
    with engine.begin() as transaction:
        transaction.execute(text("SET LOCAL lock_timeout = '7s'"))
        add_tracking(transaction, "big")
        assert transaction.scalar(text("SHOW lock_timeout")) == "7s"
    engine.dispose()
    assert told_apart(connection) == (5000, 5000)


def test_it_may_be_repeated_and_keeps_positions(connection):
    add_tracking(connection, "big")
    connection.execute(text("INSERT INTO big (user_id) VALUES (2)"))
    state = text(
        "SELECT epoch, (SELECT max(headwater_change::text) FROM big) "
        "FROM headwater_tables WHERE name = 'big'"
    )
    before = connection.execute(state).one()
    index = "ix_big_user_id_headwater_change"
    connection.execute(text(f"CREATE INDEX {index} ON big (user_id)"))
    connection.execute(
        text(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{index}'::regclass")
    )
    add_tracking(connection, "big", indexes=[("user_id",)], notify=False)
    assert connection.execute(state).one() == before
    built = connection.scalar(text(f"SELECT pg_get_indexdef('{index}'::regclass)"))
    assert "headwater_change" in built
    names = connection.scalars(text("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal")).all()
    assert "headwater_big_wake_insert" not in names


def test_in_a_transaction_all_of_it_is_one(postgres, database, connection):
    engine = sa.create_engine(postgres.url(database))
    with engine.connect() as other:
        add_tracking(other, "big", indexes=[("user_id",)])
        other.rollback()
        assert "headwater_change" not in {
            column["name"] for column in sa.inspect(other).get_columns("big")
        }
        add_tracking(other, "big")
        other.commit()
    engine.dispose()
    assert told_apart(connection) == (5000, 5000)


def test_dropping_it_leaves_the_table_as_it_was(connection):
    inspect = lambda: sa.inspect(connection)  # noqa: E731
    before = [column["name"] for column in inspect().get_columns("big")]
    add_tracking(connection, "big", keyed=True, filters=["user_id"])
    drop_tracking(connection, "big")
    assert [column["name"] for column in inspect().get_columns("big")] == before
    assert inspect().get_indexes("big") == []
    connection.execute(text("DELETE FROM big WHERE id = 1"))
    tables = "SELECT (SELECT count(*) FROM headwater_tables WHERE name = 'big'), count(*)"
    assert tuple(connection.execute(text(f"{tables} FROM headwater_removals")).one()) == (0, 0)


@pytest.mark.parametrize("name", ['an "odd" %s name', "x" * 63])
async def test_odd_names_and_other_schemas(connection, engine, name):
    quoted = '"' + name.replace('"', '""') + '"'
    connection.execute(text("CREATE SCHEMA other"))
    connection.exec_driver_sql(
        f'CREATE TABLE other.{quoted} ("the id" int PRIMARY KEY, "a ""b""" int)'.replace("%", "%%")
    )
    add_tracking(connection, name, keyed=True, filters=['a "b"'], schema="other")

    class Here(DeclarativeBase):
        pass

    class Odd(Here):
        __tablename__ = name
        __table_args__ = {"schema": "other"}
        key: Mapped[int] = mapped_column("the id", primary_key=True)
        a: Mapped[int | None] = mapped_column('a "b"')

    track(keyed=True, filters=("a",))(Odd)
    table, sink = Table(engine, Odd), Recorder()
    await table.origin.attach(sink)
    for sql in ("INSERT INTO other.{} VALUES (1, 5)", "DELETE FROM other.{}"):
        connection.exec_driver_sql(sql.format(quoted.replace("%", "%%")))
    await sink.until(lambda sink: any(change.removed for change in sink.changes))
    gone = sink.changes[-1]
    assert (gone.key, gone.values) == ({"key": 1}, {"key": 1, "a": 5})
    await table.origin.detach()


async def test_partitioned_tables(connection, engine):
    """Rows may be written by way of the partitions, and move between them."""
    connection.execute(
        text("CREATE TABLE parts (id int PRIMARY KEY, n int) PARTITION BY RANGE (id)")
    )
    for name, low in (("low", 0), ("high", 100)):
        connection.execute(
            text(
                f"CREATE TABLE parts_{name} PARTITION OF parts "
                f"FOR VALUES FROM ({low}) TO ({low + 100})"
            )
        )
    connection.execute(text("INSERT INTO parts VALUES (1, 1)"))
    add_tracking(connection, "parts", keyed=True)

    class There(DeclarativeBase):
        pass

    @track(keyed=True)
    class Part(There):
        __tablename__ = "parts"
        id: Mapped[int] = mapped_column(primary_key=True)
        n: Mapped[int]

    table = Table(engine, Part)
    start = await table.where().page(5)
    assert [change.item["id"] for change in start.changes] == [1]
    connection.execute(text("INSERT INTO parts_low VALUES (2, 2)"))
    connection.execute(text("UPDATE parts SET id = 102 WHERE id = 2"))
    connection.execute(text("UPDATE parts_low SET n = 5 WHERE id = 1"))
    page = await table.where().page(9, after=start.end)
    told = [(change.removed, change.key["id"]) for change in page.changes]
    assert told == [(True, 2), (False, 102), (False, 1)]


def test_alembic_proposes_no_change(connection):
    """With ``include_object``: the column of the order and the indexes are not in the model."""
    add_tracking(connection, "big", indexes=[("user_id",)])
    context = MigrationContext.configure(connection, opts={"include_object": include_object})
    wanted = sa.MetaData()
    Big.__table__.to_metadata(wanted)
    # Tables of other tests of this database are not of interest here.
    found = produce_migrations(context, wanted).upgrade_ops.as_diffs()
    mine = [diff for diff in map(str, found) if "'big'" in diff or "Table('headwater" in diff]
    assert mine == []


def test_alembics_operations_can_be_used(connection):
    op = Operations(MigrationContext.configure(connection))
    op.create_table("fresh", sa.Column("id", sa.Integer, primary_key=True))
    add_tracking(op, "fresh")
    connection.execute(text("INSERT INTO fresh DEFAULT VALUES"))
    drop_tracking(op, "fresh")


def test_create_all_and_drop_all_come_round(postgres):
    name = postgres.database()
    engine = sa.create_engine(postgres.url(name))
    for _ in range(2):
        Base.metadata.create_all(engine)
        Base.metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO logs (user_id) VALUES (1)"))
        Base.metadata.drop_all(engine)
    engine.dispose()
    postgres.drop(name)


def test_an_old_server_is_refused(connection, monkeypatch):
    monkeypatch.setattr(connection.dialect, "server_version_info", (12, 4))
    with pytest.raises(DeclarationError, match="PostgreSQL 12 is too old"):
        add_tracking(connection, "big")


def test_what_is_not_there_is_refused(connection):
    with pytest.raises(DeclarationError, match="no table 'nope'"):
        add_tracking(connection, "nope")
    connection.execute(text("CREATE VIEW view AS SELECT * FROM big"))
    with pytest.raises(DeclarationError, match="'view' is a view"):
        add_tracking(connection, "view")
    connection.execute(text("CREATE TABLE keyless (n int)"))
    with pytest.raises(DeclarationError, match="no primary key"):
        add_tracking(connection, "keyless")
