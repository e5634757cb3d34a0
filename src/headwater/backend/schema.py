"""The database's schema: finds its version, and brings it up to date.

It runs before the application starts, so it is synchronous. Each of its failures is one
sentence (StartupError).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError

from headwater.backend.database import Address, StartupError, in_one_line
from headwater.sql import configure_sqlite

State = Literal["empty", "older", "current", "newer", "foreign"]

_MIGRATIONS = Path(__file__).parent / "migrations"
# All migrations, oldest first. Alembic could read them from the files, but each start needs them,
# and importing alembic takes a sixth of a start's time.
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006")
# The PostgreSQL advisory lock with which one process at a time checks or changes the schema.
_SCHEMA_LOCK = 0x48656165
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def migrate(address: Address) -> bool:
    """Bring the schema up to date, and create a missing file. Returns whether anything changed.

    It is one transaction: if it fails, the schema stays as it was. Raises StartupError.
    """
    with _connected(address) as connection:
        _lock(connection)
        state = schema_state(connection)
        _refuse(state, address)
        if state == "current":
            return False
        _upgrade(connection)
        connection.commit()
        return True


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def check_schema(address: Address) -> State:
    """Whether the backend can start on this database: ``"current"``, or ``"empty"`` to migrate.

    Raises StartupError for everything else.
    """
    with _connected(address) as connection:
        # This takes the write lock, and fails if the database is read-only.
        _lock(connection)
        state = schema_state(connection)
        connection.rollback()
    _refuse(state, address)
    if state == "older":
        raise StartupError(
            f"The database {address.shown} has an older schema than this version of Headwater: "
            "run `headwater migrate` first."
        )
    return state


def check_reachable(address: Address) -> None:
    """Raise StartupError unless a database is there, or can be made, and can be written."""
    with _connected(address) as connection:
        _lock(connection)
        connection.rollback()


def has_users(address: Address) -> bool:
    """Whether the database has any user."""
    with _connected(address) as connection:
        return connection.execute(sa.text("SELECT 1 FROM users LIMIT 1")).first() is not None


def _lock(connection: sa.Connection) -> None:
    """Begin a transaction during which no other one can change the schema."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    if connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar():
        raise StartupError(
            "The PostgreSQL server is a standby, which takes no writes: give the address of the "
            "primary."
        )
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")


def schema_state(connection: sa.Connection) -> State:
    """Which schema a database has."""
    tables = {
        name
        for name in sa.inspect(connection).get_table_names()
        # An event log in the same file makes its own tables.
        if not name.startswith("headwater_")
    }
    if not tables:
        return "empty"
    if "alembic_version" not in tables:
        return "foreign"
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if found is None:
        return "empty" if tables == {"alembic_version"} else "foreign"
    if found == REVISIONS[-1]:
        return "current"
    return "older" if found in REVISIONS else "newer"


def _refuse(state: State, address: Address) -> None:
    if state == "newer":
        raise StartupError(
            f"The database {address.shown} has the schema of a newer version of Headwater: use "
            "that version, or another database."
        )
    if state == "foreign":
        raise StartupError(
            f"The database {address.shown} holds tables of something else: give Headwater a "
            f"{'file' if address.server is None else 'database'} of its own."
        )


@contextmanager
def _connected(address: Address) -> Iterator[sa.Connection]:
    engine = sa.create_engine(address.sync_url, poolclass=sa.NullPool)
    if address.path is not None:
        _look_at(address.path)
        _make_private(address.path)
        configure_sqlite(engine, synchronous="FULL", foreign_keys=True)
    try:
        with engine.connect() as connection:
            yield connection
    except DatabaseError as error:
        said = in_one_line(error)
        if address.path is None:
            raise StartupError(f"The database {address.shown} cannot be used: {said}") from error
        raise StartupError(_explained(address.path, said)) from error
    finally:
        engine.dispose()


def _look_at(path: Path) -> None:
    """Raise StartupError for faults that SQLite reports less clearly."""
    folder = path.parent
    if not folder.exists():
        raise StartupError(f"The folder {folder} for the database {path.name} does not exist.")
    if not folder.is_dir():
        raise StartupError(f"{folder} is not a folder, so the database {path} cannot be in it.")
    if path.is_dir():
        raise StartupError(f"{path} is a folder; a database is a file.")
    # SQLite writes files beside the database. The mode is checked too: root may write everywhere,
    # but a file without any write bit is meant to be read-only.
    for place, what in ((path, "The database"), (folder, "The folder")):
        try:
            mode = place.stat().st_mode
        except FileNotFoundError:
            continue
        if not os.access(place, os.W_OK) or not mode & _WRITABLE:
            raise StartupError(f"{what} {place} is read-only; Headwater needs to write to it.")


def _make_private(path: Path) -> None:
    """Make an absent file that nobody else may read; SQLite gives its journals the same mode."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _explained(path: Path, said: str) -> str:
    if "not a database" in said or "malformed" in said:
        return f"{path} is not a SQLite database, or is damaged ({said})."
    if "locked" in said:
        return f"The database {path} is locked by another program; try again when it has finished."
    if "full" in said:
        return f"The disk with the database {path} is full."
    if "readonly" in said:
        return f"The database {path} is read-only; Headwater needs to write to it."
    return f"The database {path} cannot be used: {said}"
