"""An outage passes and streams wait; a fault of the program must be seen."""

import sqlite3

import pytest
from psycopg.errors import (
    DiskFull,
    IdleInTransactionSessionTimeout,
    InFailedSqlTransaction,
    ReadOnlySqlTransaction,
    UniqueViolation,
)
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from headwater.sql._faults import unavailable


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("database is locked", "another program holds the database locked"),
        ("unable to open database file", "the database file cannot be opened; is it there?"),
        ("database or disk is full", "the disk is full"),
        ("no such table: logs", "a table is missing; is the database migrated?"),
        ("attempt to write a readonly database", "the database file is read-only"),
    ],
)
def test_what_passes(said, told):
    assert unavailable(OperationalError("", {}, sqlite3.OperationalError(said))) == told


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("", {}, sqlite3.OperationalError('near "x": syntax error')),
        OperationalError("", {}, sqlite3.OperationalError("no such column: colour")),
        ProgrammingError("", {}, sqlite3.ProgrammingError("You did not supply a value")),
        ValueError("a bug"),
    ],
)
def test_what_does_not(error):
    assert unavailable(error) is None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ReadOnlySqlTransaction(), "the server takes no writes"),
        (IdleInTransactionSessionTimeout(), "a transaction was idle for too long"),
        (DiskFull(), "the server is short of resources or connections"),
        (InFailedSqlTransaction(), None),
        (UniqueViolation(), None),
    ],
)
def test_what_postgresql_says(error, told):
    assert unavailable(DBAPIError("", {}, error)) == told


def test_a_pool_that_is_empty_passes():
    assert unavailable(PoolTimeoutError("QueuePool limit")) == "all connections are in use"
