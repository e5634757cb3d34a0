"""The database: its address, its connections, and transactions that read or write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from headwater.errors import HeadwaterError, SourceUnavailableError
from headwater.sql import configure_sqlite

__all__ = ["UNAVAILABLE", "Address", "Database", "StartupError", "in_one_line"]

# What the driver raises while a database is locked, away, full or read-only. An IntegrityError
# or a ProgrammingError is no outage.
UNAVAILABLE = (OperationalError, PoolTimeoutError)


class StartupError(HeadwaterError):
    """The backend cannot start. ``str()`` is one sentence that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the database is. ``Address.parse`` reads ``sqlite:///path``."""

    path: Path

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises StartupError for what this version cannot open."""
        scheme = url.partition("://")[0].lower() if "://" in url else ""
        if scheme not in {"sqlite", "sqlite+aiosqlite"}:
            # The rest of an address may hold a password, so it is not shown.
            named = f"{scheme}://" if scheme else "This"
            raise StartupError(
                f"{named} is no database that this version can use: give sqlite:///path."
            )
        parts = urlsplit(url)
        path = unquote(parts.path)[1:]
        if parts.netloc or not path or path.startswith(":memory:") or parts.query:
            raise StartupError(
                "A database in SQLite is given as sqlite:///path, or sqlite:////path for an "
                "absolute path, without options; one in memory cannot be shared."
            )
        return cls(Path(path))

    @property
    def url(self) -> str:
        """The address as ``--event-log`` takes it."""
        return f"sqlite:///{self.path}"


class Database:
    """The one engine of a process.

    Attributes:
        engine: what tails and event logs of the same file use too.
        statements: how many statements were run, for ``/metrics``.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.statements = 0
        engine = create_async_engine(
            f"sqlite+aiosqlite:///{address.path}", pool_size=4, max_overflow=8, pool_timeout=10.0
        )
        # FULL, because a commit that a power cut takes back would give change numbers out twice,
        # and clients resume by them.
        self.engine: AsyncEngine = configure_sqlite(engine, synchronous="FULL")
        event.listen(self.engine.sync_engine, "before_cursor_execute", self._count)
        # Writers of one process take turns here, first come first served; SQLite itself would
        # let them try again at random.
        self._turn = asyncio.Lock()
        self._opened = _identity(address.path)

    def _count(self, *_: object) -> None:
        self.statements += 1

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session for statements that only read. Raises SourceUnavailableError."""
        with _translated():
            async with AsyncSession(self.engine, expire_on_commit=False) as session:
                yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A session that holds the write lock and commits at the end, unless there is an error.

        A transaction that reads first and writes later would fail when another wrote in between;
        one that begins with the lock waits for its turn instead. Raises SourceUnavailableError.
        """
        with _translated():
            async with (
                self._turn,
                AsyncSession(self.engine, expire_on_commit=False) as session,
                session.begin(),
            ):
                connection = await session.connection()
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield session

    def is_in_place(self) -> bool:
        """Whether the file is still the one that was opened."""
        now = _identity(self.address.path)
        if self._opened is None:
            self._opened = now
        return now is not None and now == self._opened

    async def close(self) -> None:
        await self.engine.dispose()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _translated() -> Iterator[None]:
    """What the driver raises while the database is away, as what becomes a 503."""
    try:
        yield
    except UNAVAILABLE as error:
        raise SourceUnavailableError("The database", in_one_line(error)) from error


def in_one_line(error: Exception) -> str:
    """What the driver said, without SQL and parameters, which may hold secrets."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return " ".join(str(cause).split()) or type(cause).__name__
