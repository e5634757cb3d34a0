"""The database: its address, its connections, and transactions that read or write."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Select,
    Text,
    any_,
    bindparam,
    delete,
    event,
    func,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from headwater.errors import HeadwaterError, SourceUnavailableError
from headwater.sql import configure_sqlite
from headwater.sql._faults import unavailable
from headwater.sql.postgresql._connections import SCHEMES, address_of, engine_at, with_defaults
from headwater.sql.sqlite._connections import ReadConnection, identity_of, path_of
from headwater.web.problems import Problem

# Seconds that a look-up or a reading session, and a transaction that writes, may take on a server.
# After that the caller gets an error, instead of waiting for a database that does not answer. The
# driver then takes up to 10 s more to cancel the statement.
PATIENCE = (10.0, 30.0)

# Rows that one transaction of `delete_in_steps` deletes at most.
_STEP = 2000

# The PostgreSQL advisory lock of `write(alone=True)`.
_LOCK = 0x48656164


class StartupError(HeadwaterError):
    """The backend cannot start. ``str()`` is one sentence that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the database is.

    Attributes:
        path: the file of a SQLite database; None for PostgreSQL.
        server: how to reach a PostgreSQL database, with its password; None for SQLite.
    """

    path: Path | None = None
    server: URL | None = None

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read ``sqlite:///path`` or ``postgresql://…``. Raises StartupError, DeclarationError."""
        scheme = url.partition("://")[0].lower() if "://" in url else ""
        if scheme in SCHEMES:
            return cls(server=address_of(url))
        if scheme not in {"sqlite", "sqlite+aiosqlite"}:
            # The rest of an address may hold a password, so it is not shown.
            named = f"{scheme}://" if scheme else "This address"
            raise StartupError(
                f"{named} is no database that this version can use: give sqlite:///path or "
                "postgresql://user@host/name."
            )
        return cls(path_of(url))

    @property
    def shown(self) -> str:
        """The address for messages, without a password."""
        if self.server is None:
            return str(self.path)
        host = self.server.host or self.server.query.get("host") or "localhost"
        return f"{self.server.database or self.server.username or 'postgres'} at {host}"

    @property
    def url(self) -> str:
        """As ``--database`` takes it, without a password."""
        if self.server is None:
            return f"sqlite:///{self.path}"
        found = self.server
        return URL.create(
            "postgresql", found.username, None, found.host, found.port, found.database, found.query
        ).render_as_string()

    @property
    def sync_url(self) -> URL:
        """For an engine without asyncio."""
        if self.server is not None:
            return with_defaults(self.server)
        return URL.create("sqlite", database=str(self.path))


class Database:
    """The one engine of a process.

    Arguments:
        patience: seconds after which a server must have answered a reader, and a writer.

    Attributes:
        engine: the feeds use it too, and an event log in the same database.
        statements: the number of statements that were run, for ``/metrics``.
    """

    def __init__(self, address: Address, *, patience: tuple[float, float] = PATIENCE) -> None:
        self.address = address
        self._reading, self._writing = patience
        self.statements = 0
        # A log with a statement's values would hold password hashes.
        options = {"hide_parameters": True, "max_overflow": 8, "pool_timeout": 10.0}
        self.engine: AsyncEngine
        if address.server is not None:
            self.engine = engine_at(address.server, pool_size=8, **options)
        else:
            self.engine = create_async_engine(
                f"sqlite+aiosqlite:///{address.path}", pool_size=4, **options
            )
            # FULL, because a commit that a power cut takes back would give change numbers out
            # twice, and clients resume by them.
            configure_sqlite(self.engine, synchronous="FULL", foreign_keys=True)
        self.direct = ReadConnection(self.engine) if self.is_sqlite else None
        # A single statement needs no transaction around it, which saves two round trips.
        self._plain = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        event.listen(self.engine.sync_engine, "before_cursor_execute", self._count)
        # Writers of one process take turns in the order in which they came. SQLite would let each
        # try again at random.
        self._turn = asyncio.Lock() if self.is_sqlite else nullcontext()
        self._opened = self._identity()

    @property
    def is_sqlite(self) -> bool:
        return self.address.server is None

    def insert(self, model: type[Any]) -> Any:
        """An insert with ``on_conflict_do_update``, as the database has it."""
        return sqlite_insert(model) if self.is_sqlite else postgresql_insert(model)

    def _count(self, *_: object) -> None:
        self.statements += 1

    def among(self, column: Any) -> ColumnElement[bool]:
        """The condition that a column has one of the keys of a look-up."""
        if self.is_sqlite:
            each = func.json_each(bindparam("keys", type_=Text())).table_valued("value")
            found: ColumnElement[bool] = column.in_(select(each.c.value))
        else:
            found = column == any_(bindparam("keys", type_=ARRAY(Text())))
        return found

    async def look_up(
        self,
        query: Select[*tuple[Any, ...]],
        keys: Sequence[str],
        **values: Any,
    ) -> Sequence[Sequence[Any]]:
        """The rows of one statement for many keys at once. Its WHERE has ``among``.

        Make the statement once and keep it, because its text is cached. Raises
        SourceUnavailableError.
        """
        # PostgreSQL has no text with a NUL, so nothing has such a key.
        keys = [key for key in keys if "\x00" not in key]
        with _translated():
            async with asyncio.timeout(self._reading):
                if self.direct is not None:
                    self.statements += 1
                    return await self.direct.read(query, {**values, "keys": json.dumps(keys)})
                async with self._plain.connect() as connection:
                    found = await connection.execute(query, {**values, "keys": list(keys)})
                    rows: Sequence[Sequence[Any]] = found.all()
                    return rows

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session for statements that only read. Raises SourceUnavailableError."""
        with _translated():
            # SQLite itself bounds how long it waits for a lock.
            async with (
                asyncio.timeout(None if self.is_sqlite else self._reading),
                AsyncSession(self.engine, expire_on_commit=False) as session,
            ):
                yield session

    @asynccontextmanager
    async def write(self, *, alone: bool = False) -> AsyncIterator[AsyncSession]:
        """A session that commits at the end, unless there is an error.

        SQLite has one writer at a time. A transaction that reads first and writes later would fail
        when another wrote in between, so each begins with the write lock. On PostgreSQL writers run
        side by side. With ``alone`` they run one at a time, for decisions that depend on what was
        read. Raises SourceUnavailableError.
        """
        with _translated():
            # SQLite itself bounds how long it waits for a lock.
            async with (
                asyncio.timeout(None if self.is_sqlite else self._writing),
                self._turn,
                AsyncSession(self.engine, expire_on_commit=False) as session,
                session.begin(),
            ):
                if self.is_sqlite:
                    connection = await session.connection()
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                elif alone:
                    await session.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
                yield session

    async def delete_in_steps(self, model: type[Any], condition: ColumnElement[bool]) -> None:
        """Delete many rows in several transactions, so that other writers need not wait for all."""
        some = select(model.id).where(condition).limit(_STEP)
        while True:
            async with self.write() as session:
                gone = await session.execute(
                    delete(model).where(model.id.in_(some)).returning(model.id)
                )
                if len(gone.all()) < _STEP:
                    return

    def is_in_place(self) -> bool:
        """Whether the database's file is still the one that was opened. True on PostgreSQL."""
        if self.address.path is None:
            return True
        now = self._identity()
        if self._opened is None:
            self._opened = now
        return now is not None and now == self._opened

    def _identity(self) -> tuple[int, int] | None:
        return None if self.address.path is None else identity_of(str(self.address.path))

    async def close(self) -> None:
        if self.direct is not None:
            await self.direct.close()
        await self.engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    """Turns what the driver raises while the database is away into errors that become a 503."""
    try:
        yield
    except DataError as error:
        if "NUL" not in str(error.orig):
            raise
        raise Problem(
            422,
            "A text holds a NUL character (U+0000), which PostgreSQL cannot store; leave it out.",
        ) from error
    except TimeoutError as error:
        raise SourceUnavailableError("The database", "it does not answer") from error
    except Exception as error:
        if isinstance(error, IntegrityError) and _is_missing_reference(error):
            raise Problem(
                409, "Something that the request refers to was removed meanwhile; read it again."
            ) from error
        said = unavailable(error)
        if said is None:
            raise
        raise SourceUnavailableError("The database", said) from error


def _is_missing_reference(error: IntegrityError) -> bool:
    """Whether a foreign key refers to a row that is gone."""
    state = getattr(error.orig, "sqlstate", None)
    return state == "23503" or "FOREIGN KEY" in str(error.orig)


def in_one_line(error: Exception) -> str:
    """The driver's message, without SQL and parameters, which may hold secrets."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return " ".join(str(cause).split()) or type(cause).__name__
