"""Compares the tables of a live query with what their tracking should be, while it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.errors import DeclarationError, SourceUnavailableError
from headwater.sql._tracking import Tracking
from headwater.sql.postgresql import _schema as postgresql_schema
from headwater.sql.sqlite import _schema as sqlite_schema

__all__ = ["TrackingCheck"]

# Seconds between two comparisons: the catalogue does not report its changes.
EVERY = 1.0


class TrackingCheck:
    """The comparison of one live query's tables.

    Arguments:
        name: of the live query.
    """

    def __init__(self, name: str, tables: Collection[Tracking]) -> None:
        self._name = name
        self._tables = tables
        self._next = 0.0

    def soon(self) -> None:
        """Compare at the next read: the schema is another one."""
        self._next = 0.0

    async def run(self, connection: AsyncConnection) -> None:
        """Compare once a second at most. Raises SourceUnavailableError with what mends it."""
        now = asyncio.get_running_loop().time()
        if now < self._next:
            return
        schema = sqlite_schema if connection.dialect.name == "sqlite" else postgresql_schema
        for tracking in self._tables:
            try:
                _, wrong = await connection.run_sync(schema.drift, tracking, ())
            except DeclarationError as error:
                wrong = [str(error)]
            if wrong:
                said = f"table {tracking.full_name}: {'; '.join(wrong)}. {tracking.call} mends it"
                raise SourceUnavailableError(self._name, said, public=True, lasting=True)
        # The read takes a snapshot of its own.
        await connection.rollback()
        self._next = now + EVERY
