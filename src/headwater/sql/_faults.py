"""Which errors of a database will pass by themselves, and the sentence for each."""

from __future__ import annotations

import sqlite3

import sqlalchemy as sa

# These last until a migration was run.
TABLE_MISSING = "a table is missing; is the database migrated?"
COLUMN_MISSING = "a column is missing; is the database migrated?"
LASTING = frozenset({TABLE_MISSING, COLUMN_MISSING})

# SQLite's messages: it reports these as OperationalError, and a mistake in the SQL too.
_SENTENCES = {
    "no such table": TABLE_MISSING,
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
    "cannot start a transaction": "another task has a transaction on the one connection",
}

# PostgreSQL's SQLSTATEs, by how they begin. All others are faults of the program.
_STATES = {
    "08": "the connection failed",
    "42P01": TABLE_MISSING,
    "42703": COLUMN_MISSING,
    "3D000": "there is no such database",
    "28": "the server refuses this user",
    "53": "the server is short of resources or connections",
    "57P01": "the server is shutting down",
    "57P02": "the server has crashed",
    "57P03": "the server is starting up or shutting down",
    "57P04": "the database was dropped",
    "57014": "the statement was cancelled or took too long",
    "57P05": "the connection was idle for too long",
    "55P03": "a lock was not free in time",
    "40": "the transaction had to give way to another one",
    "58": "the server's system reports an error",
    "XX": "the server reports an internal error",
    "72000": "the snapshot is too old",
}
_MAY_NOT = "42501"


def unavailable(error: BaseException) -> str | None:
    """One sentence when the error will pass by itself; None when it is a fault of the program."""
    if isinstance(error, sa.exc.TimeoutError):
        return "all connections are in use"
    if isinstance(error, sa.exc.DBAPIError):
        if isinstance(error.orig, sqlite3.Error):
            text = str(error.orig).lower()
            return next((said for known, said in _SENTENCES.items() if known in text), None)
        return _of_postgresql(error)
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        # asyncpg's own, when no connection could be made.
        return _by_state(state)
    if isinstance(error, sa.exc.InvalidRequestError) and "reconnect" not in str(error).lower():
        return None
    passes = (OSError, sa.exc.DisconnectionError, sa.exc.InvalidRequestError)
    return str(error) if isinstance(error, passes) else None


def _by_state(state: str) -> str | None:
    return next((said for known, said in _STATES.items() if state.startswith(known)), None)


def _of_postgresql(error: sa.exc.DBAPIError) -> str | None:
    state = getattr(error.orig, "sqlstate", None)
    if state == _MAY_NOT:
        return f"this user may not do that: {str(error.orig).splitlines()[0]}"
    if state is not None:
        return _by_state(state)
    # psycopg has no state for a connection that broke, or that could not be made.
    if error.connection_invalidated or isinstance(error, sa.exc.OperationalError):
        # The first line names the address, never the password.
        return next(iter(str(error.orig).splitlines()), "") or "the connection failed"
    return None
