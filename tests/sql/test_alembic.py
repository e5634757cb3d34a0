"""Tracking reaches existing databases by migrations, also where millions of rows are already."""

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.errors import DeclarationError
from headwater.sql import RowPlace, Table, configure_sqlite
from headwater.sql.alembic import add_tracking, drop_tracking
from support.tables import Base, Client, Log

LOGS = """CREATE TABLE logs (id INTEGER NOT NULL PRIMARY KEY, user_id INTEGER NOT NULL,
level VARCHAR DEFAULT 'info' NOT NULL, message VARCHAR DEFAULT '' NOT NULL, created_at DATETIME)"""
CLIENTS = """CREATE TABLE clients (id VARCHAR NOT NULL PRIMARY KEY, user_id INTEGER NOT NULL,
team_id INTEGER DEFAULT 1 NOT NULL, name VARCHAR, seen_at DATETIME, UNIQUE (name))"""
RUNS = [("user_id",), ("user_id", "level")]


@pytest.fixture
def old(path):
    """A database from before the tables were tracked."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.exec_driver_sql(LOGS)
        connection.exec_driver_sql(CLIENTS)
        rows = [(n, n % 3) for n in range(2500, 0, -1)]
        connection.exec_driver_sql("INSERT INTO logs (id, user_id) VALUES (?, ?)", rows)
        connection.exec_driver_sql("INSERT INTO clients (id, user_id) VALUES ('b', 1), ('a', 1)")
    yield engine
    engine.dispose()


def schema_of(engine):
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT type, name, sql FROM sqlite_master")
        return {
            (kind, name): sql.replace('"', "")
            for kind, name, sql in rows
            if kind in ("trigger", "index") and sql
        }


def migrate(connection):
    op = Operations(MigrationContext.configure(connection))
    add_tracking(op, "logs", indexes=RUNS)
    add_tracking(op, "clients", keyed=True, filters=("user_id", "team_id"))


async def test_existing_rows_are_numbered_in_order_of_the_key(old, path):
    with old.begin() as connection:
        migrate(connection)
        connection.execute(text("INSERT INTO logs (user_id) VALUES (9)"))
        connection.execute(text("DELETE FROM clients WHERE id = 'a'"))
    engine = configure_sqlite(create_async_engine(f"sqlite+aiosqlite:///{path}"))
    page = await Table(engine, Log).where().page(3000, after=RowPlace(0))
    assert [c.item["id"] for c in page.changes] == list(range(1, 2502))
    assert [c.place.number for c in page.changes] == list(range(1, 2502))
    page = await Table(engine, Client).where(user_id=1).page(5, after=RowPlace(0))
    assert [(c.key["id"], c.removed) for c in page.changes] == [("b", False), ("a", True)]
    await engine.dispose()


def test_a_migrated_database_equals_a_created_one(old):
    with old.begin() as connection:
        migrate(connection)
    made = create_engine("sqlite://")
    names = {"logs", "clients"}
    Base.metadata.create_all(
        made, tables=[t for n, t in Base.metadata.tables.items() if n in names]
    )
    assert schema_of(old) == schema_of(made)
    made.dispose()


def test_in_autocommit_each_step_is_its_own_transaction(old):
    seen = []
    with old.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        driver = connection.connection.driver_connection
        driver.set_trace_callback(lambda sql: seen.append(sql.split()[0]))
        migrate(connection)
        driver.set_trace_callback(None)
    assert seen.count("COMMIT") == seen.count("BEGIN") == 2 + 3 + 1


def test_again_for_another_declaration_keeps_numbers_and_epoch(old):
    with old.begin() as connection:
        add_tracking(connection, "clients", keyed=True, filters=("user_id",))
        before = connection.execute(text("SELECT epoch, last FROM headwater_tables")).one()
        add_tracking(connection, "clients", keyed=True, filters=("user_id", "team_id"))
        assert connection.execute(text("SELECT epoch, last FROM headwater_tables")).one() == before
        numbers = connection.execute(text("SELECT headwater_change FROM clients ORDER BY id"))
        assert numbers.scalars().all() == [1, 2]


def test_dropping_it_leaves_no_trace_of_the_table(old):
    before = schema_of(old)
    with old.begin() as connection:
        migrate(connection)
        drop_tracking(connection, "logs")
        drop_tracking(connection, "clients")
        assert not connection.execute(text("SELECT * FROM headwater_tables")).all()
        assert "headwater_change" not in {
            c["name"] for c in inspect(connection).get_columns("logs")
        }
    assert schema_of(old) == before


@pytest.mark.parametrize(
    ("table", "options", "said"),
    [
        ("nothing", {}, "no table 'nothing'"),
        ("logs", {"indexes": [("colour",)]}, "no column 'colour'"),
        ("bare", {}, "no primary key"),
    ],
)
def test_what_cannot_be_tracked_is_refused(old, table, options, said):
    with old.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE bare (a INTEGER)")
        with pytest.raises(DeclarationError, match=said):
            add_tracking(connection, table, **options)
