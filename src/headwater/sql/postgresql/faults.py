"""Which errors mean that the database is away just now, and what to tell people."""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["unavailable"]

# SQLSTATEs, by their beginning: the rest of a class is a fault of the program.
_STATES = {
    "08": "the connection failed",
    "42P01": "a table is missing; is the database migrated?",
    "42703": "a column is missing; is the database migrated?",
    "3D000": "there is no such database",
    "28": "it does not let us in",
    "53": "the server is short of resources or connections",
    "57P01": "the server is shutting down",
    "57P02": "the server has crashed",
    "57P03": "the server is starting up or shutting down",
    "57P04": "the database was dropped",
    "57014": "the statement was cancelled or took too long",
    "57P05": "the connection was idle for too long",
    "55P03": "a lock could not be had in time",
    "40": "it had to give way to another transaction",
    "58": "the server has trouble with its system",
    "XX": "the server has trouble inside",
    "72000": "the snapshot is too old",
}


def unavailable(error: BaseException) -> str | None:
    """One sentence when the error will pass by itself; None when it is a fault of the program."""
    if isinstance(error, sa.exc.TimeoutError):
        return "all connections are in use"
    if isinstance(error, sa.exc.DBAPIError):
        state = getattr(error.orig, "sqlstate", None)
        if state is None:
            # psycopg has no state for a connection that broke, or could not be made.
            broken = error.connection_invalidated or isinstance(error, sa.exc.OperationalError)
            return _first_line(error) if broken else None
        for known, said in _STATES.items():
            if state.startswith(known):
                return said
        return None
    if isinstance(error, (OSError, sa.exc.DisconnectionError, sa.exc.InvalidRequestError)):
        text = str(error)
        if isinstance(error, sa.exc.InvalidRequestError) and "reconnect" not in text.lower():
            return None
        return text
    return None


def _first_line(error: sa.exc.DBAPIError) -> str:
    """What psycopg says; it names the address, never the password."""
    return next(iter(str(error.orig).splitlines()), "") or "the connection failed"
