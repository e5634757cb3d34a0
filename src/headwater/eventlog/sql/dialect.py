"""What differs between the databases under a ``SqlLog``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

if TYPE_CHECKING:
    from headwater.eventlog.sql.reader import Reader
    from headwater.eventlog.sql.storage import Storage
    from headwater.eventlog.sql.writer import Writer

__all__ = ["Dialect", "Row"]

Row = Mapping[str, Any]


class Dialect(ABC):
    """One database's statements, errors, reader and writer.

    Attributes:
        name: for error messages; holds no address, which might hold a password.
        reading: execution options of statements that only read.
        patience: seconds after which a caller is told that there is no answer; None: the database
            is no server that could be silent.
        bounds: of one ``:topic``: epoch, latest, trimmed. Each statement that reads starts at the
            log's own row, so that it gives at least one row.
        after: the records of ``:topic`` after ``:number``, at most ``:rows``, beside its bounds.
        before: those below ``:number``, newest first.
        lock_free: locks the row of ``:topic`` for trimming, and gives its id, latest and trimmed,
            unless another transaction holds it.
    """

    name: str
    reading: Mapping[str, Any] = {}
    patience: float | None = None
    bounds: sa.TextClause
    after: sa.TextClause
    before: sa.TextClause
    lock_free: sa.TextClause

    @abstractmethod
    def unavailable(self, error: BaseException) -> str | None:
        """One sentence when the error will pass by itself; None when it is a program's fault."""

    @abstractmethod
    def absent(self, error: DBAPIError) -> bool:
        """Whether the error says that a table does not exist."""

    @abstractmethod
    def busy(self, error: BaseException | None) -> bool:
        """Whether others were just creating the same, so that it is worth another try at once."""

    @abstractmethod
    async def look(self, connection: AsyncConnection) -> bool:
        """Whether the log is there; the driver's error if its tables are not."""

    @abstractmethod
    async def create(self, connection: AsyncConnection) -> None:
        """Create what is missing. The caller commits."""

    @abstractmethod
    async def take(
        self, connection: AsyncConnection, counts: Mapping[str, int]
    ) -> Mapping[str, sa.Row[Any]]:
        """Lock topics, create those that are new, and take as many numbers of each.

        Gives each topic's id, name and latest, its new highest number.
        """

    @abstractmethod
    async def known(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, str]]
    ) -> Sequence[sa.Row[Any]]:
        """The events that pairs of topic and key brought: name, number, at, key, data."""

    @abstractmethod
    async def put(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        """Insert events, at least one: topic_id, number, at, size, key, part, data."""

    @abstractmethod
    def reader(self, storage: Storage) -> Reader:
        """What follows topics."""

    @abstractmethod
    def writer(self, storage: Storage, clock: Callable[[], datetime]) -> Writer:
        """What appends outside of a caller's transaction."""

    def begin(self, storage: Storage) -> None:  # noqa: B027 - SQLite's commits announce themselves
        """The log is there and in use: start what runs until ``close``."""

    async def close(self) -> None:  # noqa: B027 - as above
        """End what ``begin`` started."""
