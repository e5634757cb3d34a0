"""Which errors mean that the database is away just now, and what to tell people."""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["unavailable"]

# SQLite reports these as OperationalError, and so does it a mistake in the SQL.
_SENTENCES = {
    "no such table": "a table is missing; is the database migrated?",
    "database is locked": "another program holds the database locked",
    "database table is locked": "another program holds a table locked",
    "unable to open database file": "the database file cannot be opened; is it there?",
    "disk i/o error": "the disk reports an error",
    "database or disk is full": "the disk is full",
    "readonly database": "the database file is read-only",
    "disk image is malformed": "the database file is damaged or being replaced",
    "file is not a database": "the file is not a database, or is being replaced",
    "database schema has changed": "the schema is being changed",
    "cannot operate on a closed database": "the connection was closed",
    "connection closed": "the connection was closed",
    "no active connection": "the connection was closed",
    "cannot start a transaction": "another user of the one connection is in a transaction",
}


def unavailable(error: BaseException) -> str | None:
    """One sentence when the error will pass by itself; None when it is a fault of the program."""
    if isinstance(error, sa.exc.TimeoutError):
        return "all connections are in use"
    if isinstance(error, sa.exc.DBAPIError):
        text = str(error.orig).lower()
        return next((said for known, said in _SENTENCES.items() if known in text), None)
    if isinstance(error, (OSError, sa.exc.DisconnectionError, sa.exc.InvalidRequestError)):
        text = str(error).lower()
        if isinstance(error, sa.exc.InvalidRequestError) and "reconnect" not in text:
            return None
        return str(error)
    return None
