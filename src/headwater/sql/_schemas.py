"""What adds, compares and drops the tracking of a table, by the database's dialect."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from headwater.errors import DeclarationError
from headwater.sql.postgresql import _links as postgresql_links
from headwater.sql.postgresql import _schema as postgresql_schema
from headwater.sql.sqlite import _links as sqlite_links
from headwater.sql.sqlite import _schema as sqlite_schema

# By dialect, two modules with the same functions.
SCHEMAS: dict[str, Any] = {"sqlite": sqlite_schema, "postgresql": postgresql_schema}
LINK_TRIGGERS: dict[str, Any] = {"sqlite": sqlite_links, "postgresql": postgresql_links}


def schema_of(connection: sa.Connection) -> Any:
    """The module for the tables of this connection. Raises DeclarationError if there is none."""
    found = SCHEMAS.get(connection.dialect.name)
    if found is None:
        raise DeclarationError(f"tables on {connection.dialect.name!r} cannot be tracked")
    return found
