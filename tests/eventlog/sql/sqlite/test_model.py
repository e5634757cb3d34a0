"""The engine on SQLite against the one in memory."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.sql import sqlite_engine
from support.log_model import SqlAgainstMemory


class SqliteAgainstMemory(SqlAgainstMemory):
    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        super().__init__()

    def engine(self) -> AsyncEngine:
        return sqlite_engine(f"sqlite:///{Path(self.folder.name)}/events.db")

    def remove(self) -> None:
        self.folder.cleanup()


class LongSqliteAgainstMemory(SqliteAgainstMemory):
    """The same, with more and longer runs."""


SqliteAgainstMemory.TestCase.settings = settings(
    max_examples=5, stateful_step_count=25, deadline=None, print_blob=True
)
LongSqliteAgainstMemory.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, print_blob=True
)
TestSqliteAgainstMemory = SqliteAgainstMemory.TestCase
TestLongSqliteAgainstMemory = pytest.mark.soak(LongSqliteAgainstMemory.TestCase)
