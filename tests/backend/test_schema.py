"""The schema: migrations make what the models say, and every start that cannot be says why."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import headwater.sql.alembic  # noqa: F401 - it leaves out what tracking adds
from headwater.backend import schema
from headwater.backend.database import Address, StartupError
from headwater.backend.models import Base
from headwater.backend.queries import clients_of, satellites_of, teams_of
from headwater.backend.schema import check_schema, migrate
from headwater.errors import HeadwaterError
from headwater.sql import configure_sqlite, sqlite_engine

NAMED = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'alembic%'"
# Columns were added to them, which SQLite writes at another place.
GROWN = ("users", "teams", "team_members", "satellites", "client_activity", "idempotent_requests")


def everything(path: Path) -> dict[str, object]:
    connection = sqlite3.connect(path)
    try:
        found: dict[str, object] = {
            # Constraints of Headwater's own tables have names where the metadata names them.
            name: re.sub(r"CONSTRAINT \w+ ", "", sql) if name.startswith("headwater_") else sql
            for name, sql in connection.execute(NAMED)
        }
        for name in GROWN:
            columns = connection.execute(f"PRAGMA table_info({name})").fetchall()
            found[name] = {
                (column[1], column[2], column[3], str(column[4]).strip("'"), column[5])
                for column in columns
            }
        return found
    finally:
        connection.close()


def declare_queries(path: Path) -> None:
    """Live queries give their tables links."""
    engine = sqlite_engine(f"sqlite:///{path}")
    for query in (clients_of, teams_of, satellites_of):
        query(engine)


def run(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def refusal(path: Path) -> str:
    with pytest.raises(StartupError) as refused:
        check_schema(Address(path))
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_migrations_make_what_the_models_say(migrated: Path, tmp_path: Path):
    """Tables, checks, indexes and triggers, to the letter."""
    other = tmp_path / "models.db"
    declare_queries(other)
    engine = configure_sqlite(sa.create_engine(f"sqlite:///{other}"))
    Base.metadata.create_all(engine)
    engine.dispose()
    assert everything(migrated) == everything(other)


def test_a_new_file_is_its_owners(tmp_path: Path):
    """It holds everybody's sessions; its journals have the same mode."""
    path = tmp_path / "new.db"
    migrate(Address(path))
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = version_num")
    connection.commit()
    modes = {name.name: name.stat().st_mode & 0o777 for name in tmp_path.iterdir()}
    connection.close()
    assert set(modes.values()) == {0o600}, modes


def test_alembic_finds_nothing_to_change(migrated: Path):
    engine = sa.create_engine(f"sqlite:///{migrated}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_a_new_database_is_empty_then_current(tmp_path: Path):
    address = Address(tmp_path / "new.db")
    assert check_schema(address) == "empty"
    assert migrate(address) is True
    assert check_schema(address) == "current"
    assert migrate(address) is False


def test_the_schema_of_a_newer_version_is_refused(database: Path):
    run(database, "UPDATE alembic_version SET version_num = '9999'")
    assert "newer version" in refusal(database)


def test_an_older_schema_asks_for_migrate(database: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "later"))
    assert "headwater migrate" in refusal(database)


def test_an_earlier_schema_is_brought_up_to_date_and_keeps_its_rows(database: Path):
    run(
        database,
        "DROP TABLE idempotent_requests",
        "DROP TABLE sign_in_places",
        "DROP TABLE sign_in_buckets",
        "DROP TABLE retired_satellite_keys",
        "UPDATE alembic_version SET version_num = '0001'",
        "INSERT INTO users (id, email, password_hash) VALUES ('u', 'a@example.com', 'x')",
    )
    assert "headwater migrate" in refusal(database)
    assert migrate(Address(database)) is True
    assert check_schema(Address(database)) == "current"
    connection = sqlite3.connect(database)
    assert connection.execute("SELECT id FROM users").fetchall() == [("u",)]
    assert connection.execute("SELECT count(*) FROM idempotent_requests").fetchone() == (0,)
    connection.close()


def test_the_triggers_of_an_earlier_version_are_made_anew(database: Path, migrated: Path):
    """They change with versions, and a table with others is not served."""
    connection = sqlite3.connect(database)
    triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    own = [name for (name,) in triggers if name.startswith("headwater_")]
    connection.close()
    assert own
    run(
        database,
        *(f"DROP TRIGGER {name}" for name in own),
        "DROP INDEX ix_idempotent_requests_caller_created_at",
        "ALTER TABLE idempotent_requests DROP COLUMN caller",
        "UPDATE alembic_version SET version_num = '0004'",
    )
    assert migrate(Address(database)) is True
    assert everything(database) == everything(migrated)


def test_the_known_revisions_are_those_of_the_migrations():
    script = ScriptDirectory(str(Path(schema.__file__).parent / "migrations"))
    newest_first = [each.revision for each in script.walk_revisions()]
    assert list(schema.REVISIONS) == newest_first[::-1]


def test_the_database_of_another_program_is_left_alone(tmp_path: Path):
    path = tmp_path / "other.db"
    run(path, "CREATE TABLE songs (title TEXT)")
    assert "something else" in refusal(path)
    with pytest.raises(StartupError, match="something else"):
        migrate(Address(path))


def test_an_event_log_may_be_in_the_file_already(tmp_path: Path):
    path = tmp_path / "log.db"
    run(path, "CREATE TABLE headwater_topics (id INTEGER)")
    assert check_schema(Address(path)) == "empty"


def test_a_file_that_is_no_database(tmp_path: Path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG" * 1000)
    assert "not a SQLite database" in refusal(path)


def test_a_missing_folder(tmp_path: Path):
    assert "does not exist" in refusal(tmp_path / "nowhere" / "headwater.db")


def test_a_folder_in_place_of_the_file(tmp_path: Path):
    assert "is a folder" in refusal(tmp_path)


def test_a_file_in_place_of_the_folder(tmp_path: Path):
    (tmp_path / "file").touch()
    assert "is not a folder" in refusal(tmp_path / "file" / "headwater.db")


def test_a_read_only_file(database: Path):
    """Also for root, which may write all the same: who took the bits away meant it."""
    os.chmod(database, 0o444)
    assert "read-only" in refusal(database)


def test_a_read_only_folder(database: Path):
    os.chmod(database.parent, 0o555)
    try:
        assert "read-only" in refusal(database)
    finally:
        os.chmod(database.parent, 0o755)


def test_a_locked_database(database: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        schema, "configure_sqlite", lambda engine, **_: configure_sqlite(engine, busy_timeout=0.01)
    )
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert "locked by another program" in refusal(database)
    other.close()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://ann:secret@db/headwater",
        "headwater.db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file.db?mode=ro",
        "sqlite://host/file.db",
    ],
)
def test_addresses_of_other_databases_are_refused(url: str):
    with pytest.raises(HeadwaterError) as refused:
        Address.parse(url)
    assert "sqlite:///path" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_relative_and_absolute_addresses():
    assert Address.parse("sqlite:///a/b.db").path == Path("a/b.db")
    assert Address.parse("sqlite:////a/b%20c.db").path == Path("/a/b c.db")
