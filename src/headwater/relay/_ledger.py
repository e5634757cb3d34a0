"""The rows of relays in the database of their tables: place, next append and holder of each.

A process that becomes the holder gets a higher fence. Each write names the fence of its process,
and changes nothing once another process has a higher one. No clocks are compared: a process that
waits takes a relay over when the row has not changed for the length of a lease.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from headwater.errors import DeclarationError, HeadwaterError, SourceUnavailableError
from headwater.eventlog import Offset
from headwater.sql._faults import unavailable

_METADATA = sa.MetaData()

RELAYS = sa.Table(
    "headwater_relays",
    _METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    # A part of the keys of its appends: a relay of this name in another database has another id.
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    # All changes up to this place are in the log. Trims up to ``trimmed`` are known.
    sa.Column("epoch", sa.Text, nullable=False),
    sa.Column("place", sa.Text, nullable=False),
    sa.Column("trimmed", sa.BigInteger, nullable=False),
    # The log's epoch, and the offset of the latest of these events.
    sa.Column("log_epoch", sa.Text, nullable=False),
    sa.Column("log_offset", sa.Text, nullable=False),
    sa.Column("relayed", sa.BigInteger, nullable=False),
    # The next append, and the place where it ends. The log may have it already.
    sa.Column("key", sa.Text, nullable=True),
    sa.Column("next_place", sa.Text, nullable=True),
    sa.Column("events", sa.Text, nullable=True),
    sa.Column("holder", sa.Text, nullable=True),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False),
)

_COLUMNS = RELAYS.c

# A crash that the append survives must not undo what was written about it before.
_SETTING = sa.text("SELECT current_setting('synchronous_commit')")
_FLUSHED = sa.text("SET LOCAL synchronous_commit TO local")

# The columns that the holder writes.
_WRITTEN = (
    *("epoch", "place", "trimmed", "log_epoch", "log_offset", "relayed"),
    *("key", "next_place", "events"),
)

# SQLSTATEs.
_NOT_ALLOWED, _READ_ONLY = "42501", "25006"


class LostError(HeadwaterError):
    """Another process holds the relay now."""


@dataclass(frozen=True, slots=True)
class State:
    """The row of one relay. With a ``key`` it has an append that the relay has prepared."""

    name: str
    id: str
    source: str
    topic: str
    epoch: str
    place: str
    trimmed: int
    log_epoch: str
    log_offset: str
    relayed: int = 0
    key: str | None = None
    next_place: str | None = None
    events: str | None = None
    holder: str | None = None
    fence: int = 0
    beat: int = 0

    @property
    def offset(self) -> Offset:
        """The offset of the latest of its events."""
        return Offset.parse(self.log_offset)

    @property
    def prefix(self) -> str:
        """The prefix of the keys of this relay's appends."""
        return f"relay:{self.id}:"

    def intending(self, place: str, texts: Sequence[str]) -> Self:
        """With these events, each as JSON, as its next append. They end at ``place``."""
        # Random: after a power cut undid a write, its key must not be given to other events.
        key = f"{self.prefix}{self.relayed}:{secrets.token_hex(8)}"
        return replace(self, key=key, next_place=place, events=f"[{','.join(texts)}]")

    def pending(self) -> list[Mapping[str, Any]]:
        """The events of the next append."""
        found: list[Mapping[str, Any]] = json.loads(self.events or "[]")
        return found

    def appended(self, offset: Offset, count: int) -> Self:
        """With the pending events in the log."""
        assert self.next_place is not None
        at, place = str(max(offset, self.offset)), self.next_place
        state = replace(self, place=place, log_offset=at, relayed=self.relayed + count)
        return state.without_pending()

    def without_pending(self) -> Self:
        """Without a next append."""
        return replace(self, key=None, next_place=None, events=None)

    def values(self) -> dict[str, Any]:
        """The values that the holder writes."""
        return {name: getattr(self, name) for name in _WRITTEN}


class Ledger:
    """The rows of relays in one database.

    Raises SourceUnavailableError while it is away, and DeclarationError without the permission.
    """

    def __init__(self, engine: AsyncEngine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._postgresql = engine.dialect.name == "postgresql"
        # The database returns from a commit before it is on the disk, unless it is told not to.
        self._lazy = False
        self._mine = _COLUMNS.name == name
        self._ready = False

    async def load(self) -> State | None:
        """The relay's row, if there is one. Makes the table if it is missing."""
        async with self._connected() as connection:
            if not self._ready:
                await connection.run_sync(create_tables)
                if self._postgresql:
                    found = await connection.scalar(_SETTING)
                    self._lazy = self._lazy or found == "off"
                self._ready = True
            found = (await connection.execute(sa.select(RELAYS).where(self._mine))).first()
        return None if found is None else State(**found._mapping)

    async def register(self, state: State) -> None:
        """Write the first row, unless another process has done so."""
        with suppress(sa.exc.IntegrityError):
            async with self._connected() as connection:
                await connection.execute(RELAYS.insert().values(asdict(state)))

    async def take(self, seen: State, holder: str) -> State | None:
        """Become the holder and return the row, if it is still as it was seen."""
        taken = {"holder": holder, "fence": seen.fence + 1, "beat": seen.beat + 1}
        unchanged = (self._mine, _COLUMNS.fence == seen.fence, _COLUMNS.beat == seen.beat)
        async with self._connected() as connection:
            update = RELAYS.update().where(*unchanged).values(taken).returning(RELAYS)
            row = (await connection.execute(update)).first()
        return None if row is None else State(**row._mapping)

    async def write(self, fence: int, values: Mapping[str, Any]) -> None:
        """Change the row and renew the lease, as the holder with this fence. Raises LostError."""
        async with self._connected() as connection:
            done = await connection.execute(
                RELAYS.update()
                .where(self._mine, _COLUMNS.fence == fence)
                .values({**values, "beat": _COLUMNS.beat + 1})
            )
        if done.rowcount == 0:
            raise LostError(f"relay {self._name!r} is held by another process")

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, whose errors name the relay's table or say that the database is away."""
        try:
            async with self._engine.begin() as connection:
                if self._lazy:
                    await connection.execute(_FLUSHED)
                yield connection
        except Exception as error:
            state = getattr(getattr(error, "orig", None), "sqlstate", None)
            if state == _NOT_ALLOWED:
                raise DeclarationError(
                    f"relay {self._name!r} may not use the table {RELAYS.name} of its database; "
                    "create it with headwater.relay.create_tables(), and grant SELECT, INSERT and "
                    "UPDATE on it"
                ) from error
            said = unavailable(error)
            if state == _READ_ONLY:
                said = "the server is a standby or read-only; a relay must write its place there"
            if said is None:
                raise
            self._ready = False
            raise SourceUnavailableError("the database of the relay", said) from error


def create_tables(connection: sa.Connection) -> None:
    """Create the table of relays where it is missing, in a migration: ``op.get_bind()``.

    A relay does so by itself if it has the permission.
    """
    try:
        with connection.begin_nested():
            _METADATA.create_all(connection)
    except sa.exc.DBAPIError:
        # Two relays that start together both find it missing.
        if not sa.inspect(connection).has_table(RELAYS.name):
            raise
