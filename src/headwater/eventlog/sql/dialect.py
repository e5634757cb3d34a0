"""What differs between the databases under a ``SqlLog``."""

from __future__ import annotations

import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Dialect", "Row"]

Row = Mapping[str, Any]

_BEGIN_LIFE = sa.text(
    "INSERT INTO headwater_log (id, epoch, trims) VALUES (1, :epoch, 0) ON CONFLICT (id) DO NOTHING"
)


class Dialect(ABC):
    """One database's statements and errors.

    Attributes:
        name: for error messages; holds no address, which might hold a password.
        reading: execution options of statements that only read.
        patience: seconds after which a caller gets an error because there is no answer; None: the
            database is no server that could be silent.
        bounds: of one ``:topic``: epoch, latest, trimmed. Each statement that reads starts at the
            log's own row, so that it gives at least one row.
        after: the records of ``:topic`` after ``:number``, at most ``:rows``, beside its bounds.
        before: those below ``:number``, newest first.
        lock_free: locks the row of ``:topic`` for trimming, and gives its id, latest and trimmed,
            unless another transaction holds it.
        reserving: for ``reserve``; ``:topics`` is a JSON list of names and counts.
        finding_keys: for ``find_keys``; ``:keys`` is a JSON list of topics and keys.
    """

    name: str
    reading: Mapping[str, Any] = {}
    patience: float | None = None
    bounds: sa.TextClause
    after: sa.TextClause
    before: sa.TextClause
    lock_free: sa.TextClause
    reserving: sa.TextClause
    finding_keys: sa.TextClause

    @abstractmethod
    def unavailable(self, error: BaseException) -> str | None:
        """One sentence when the error will pass by itself; None when it is a program's fault."""

    @abstractmethod
    def absent(self, error: DBAPIError) -> bool:
        """Whether the error says that a table does not exist."""

    @abstractmethod
    def busy(self, error: BaseException | None) -> bool:
        """Whether another process was just creating the same, so that a retry at once may do."""

    @abstractmethod
    async def exists(self, connection: AsyncConnection) -> bool:
        """Whether the log has its row. Raises the driver's error if its tables do not exist."""

    async def create(self, connection: AsyncConnection) -> None:
        """Create what is missing. The caller commits."""
        await self.create_tables(connection)
        # Letters and digits only, as a position carries it.
        await connection.execute(_BEGIN_LIFE, {"epoch": secrets.token_hex(16)})

    async def reserve(
        self, connection: AsyncConnection, counts: Mapping[str, int]
    ) -> Mapping[str, sa.Row[Any]]:
        """Lock topics, create those that are new, and reserve so many numbers of each.

        Gives each topic's id, name and latest, its new highest number.
        """
        # Sorted: two transactions that lock several topics do it in one order.
        topics = json.dumps(sorted(counts.items()))
        rows = (await connection.execute(self.reserving, {"topics": topics})).all()
        return {row.name: row for row in rows}

    async def find_keys(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, str]]
    ) -> Sequence[sa.Row[Any]]:
        """The events that pairs of topic and key brought: name, number, at, key, data."""
        return (await connection.execute(self.finding_keys, {"keys": json.dumps(keys)})).all()

    @abstractmethod
    async def create_tables(self, connection: AsyncConnection) -> None:
        """Create the tables and indexes that are missing."""

    @abstractmethod
    async def insert(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        """Insert events, at least one: topic_id, number, at, size, key, part, data."""
