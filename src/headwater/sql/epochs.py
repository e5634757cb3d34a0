"""New epochs, by hand: for what no database notices itself."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from headwater.errors import DeclarationError
from headwater.sql.postgresql import schema as postgresql_schema
from headwater.sql.sqlite import schema as sqlite_schema

__all__ = ["renew_epochs"]


def renew_epochs(connection: sa.Connection, tables: Iterable[str] | None = None) -> None:
    """Begin a new epoch of tracked tables, so that no position from before is taken for one of now.

    Run it in a transaction after a backup was restored; on PostgreSQL only after a dump was loaded
    or a cold copy of the files was put back, as the owner of the tables.

    Arguments:
        tables: names as in ``headwater_tables``; all if None.

    Raises DeclarationError on another database.
    """
    if connection.dialect.name == "sqlite":
        sqlite_schema.renew_epochs(connection, tables)
    elif connection.dialect.name == "postgresql":
        postgresql_schema.renew_epochs(connection, tables)
    else:
        raise DeclarationError(f"tables on {connection.dialect.name!r} cannot be tracked")
