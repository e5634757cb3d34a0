"""What a relay keeps in the database of its table: how far it is, what it is about to append, and
which process holds it.

One row for each relay. Each write names the fence that its process was given when it became the
holder, and does nothing once somebody else was given a higher one. No clock is compared: whoever
waits takes a relay over when its row has not changed for the length of a lease.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from headwater.errors import DeclarationError, HeadwaterError, SourceUnavailableError
from headwater.eventlog import Offset
from headwater.sql.faults import unavailable

__all__ = ["Intent", "Ledger", "LostError", "State", "create_tables"]

_METADATA = sa.MetaData()

RELAYS = sa.Table(
    "headwater_relays",
    _METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    # What its keys begin with: a relay of the same name elsewhere has others.
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    # All changes up to this place are in the log. Trims up to ``trimmed`` are no news.
    sa.Column("epoch", sa.Text, nullable=False),
    sa.Column("place", sa.Text, nullable=False),
    sa.Column("trimmed", sa.BigInteger, nullable=False),
    # The log, and where the latest of these events is in it.
    sa.Column("log_epoch", sa.Text, nullable=False),
    sa.Column("log_offset", sa.Text, nullable=False),
    sa.Column("relayed", sa.BigInteger, nullable=False),
    # What is appended next, and the place that it ends at. It may be in the log already.
    sa.Column("key", sa.Text, nullable=True),
    sa.Column("next_place", sa.Text, nullable=True),
    sa.Column("events", sa.Text, nullable=True),
    sa.Column("holder", sa.Text, nullable=True),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False),
)

_COLUMNS = RELAYS.c

# What is about to be appended must outlive a crash of the server that the append outlives.
_SETTING = sa.text("SELECT current_setting('synchronous_commit')")
_FLUSHED = sa.text("SET LOCAL synchronous_commit TO local")

# SQLSTATEs.
_NOT_ALLOWED, _READ_ONLY = "42501", "25006"


class LostError(HeadwaterError):
    """Another process holds the relay now."""


@dataclass(frozen=True, slots=True)
class Intent:
    """An append that is about to be made, written down before.

    Attributes:
        key: its idempotency key; no two intents have the same.
        place: where the table is once it was made.
        texts: the events, each as JSON.
    """

    key: str
    place: str
    texts: Sequence[str]

    def events(self) -> list[Mapping[str, Any]]:
        return [json.loads(text) for text in self.texts]


@dataclass(frozen=True, slots=True)
class State:
    """The row of one relay."""

    name: str
    id: str
    source: str
    topic: str
    epoch: str
    place: str
    trimmed: int
    log_epoch: str
    log_offset: Offset
    relayed: int = 0
    intent: Intent | None = None
    holder: str | None = None
    fence: int = 0
    beat: int = 0

    @classmethod
    def of(cls, row: sa.Row[Any]) -> Self:
        intent = None
        if row.key is not None:
            texts = [json.dumps(event, ensure_ascii=False) for event in json.loads(row.events)]
            intent = Intent(row.key, row.next_place, texts)
        return cls(
            row.name,
            row.id,
            row.source,
            row.topic,
            row.epoch,
            row.place,
            row.trimmed,
            row.log_epoch,
            Offset.parse(row.log_offset),
            row.relayed,
            intent,
            row.holder,
            row.fence,
            row.beat,
        )

    @property
    def prefix(self) -> str:
        """What the keys of this relay's appends begin with."""
        return f"relay:{self.id}:"

    def intending(self, place: str, texts: Sequence[str]) -> Self:
        """About to append these."""
        # Random: a number that was given out before a power cut took it back must not come again.
        key = f"{self.prefix}{self.relayed}:{secrets.token_hex(8)}"
        return replace(self, intent=Intent(key, place, texts))

    def appended(self, offset: Offset) -> Self:
        """With the intent's events in the log."""
        intent = self.intent
        assert intent is not None
        return replace(
            self,
            place=intent.place,
            log_offset=offset,
            relayed=self.relayed + len(intent.texts),
            intent=None,
        )

    def values(self) -> dict[str, Any]:
        """What the holder writes."""
        intent = self.intent
        return {
            "epoch": self.epoch,
            "place": self.place,
            "trimmed": self.trimmed,
            "log_epoch": self.log_epoch,
            "log_offset": str(self.log_offset),
            "relayed": self.relayed,
            "key": None if intent is None else intent.key,
            "next_place": None if intent is None else intent.place,
            "events": None if intent is None else f"[{','.join(intent.texts)}]",
        }


class Ledger:
    """The rows of relays in one database.

    Raises SourceUnavailableError while it is away, and DeclarationError without the rights.
    """

    def __init__(self, engine: AsyncEngine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._postgresql = engine.dialect.name == "postgresql"
        # Commits of this database are flushed later, unless they ask for it.
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
        return None if found is None else State.of(found)

    async def register(self, state: State) -> None:
        """Write the first row, unless another process did meanwhile."""
        given = {"name": state.name, "id": state.id, "source": state.source, "topic": state.topic}
        try:
            async with self._connected() as connection:
                values = state.values() | given | {"fence": 0, "beat": 0}
                await connection.execute(RELAYS.insert().values(values))
        except sa.exc.IntegrityError:
            return

    async def take(self, seen: State, holder: str) -> State | None:
        """Become the holder, if the row is still as it was seen; the row then."""
        taken = {"holder": holder, "fence": seen.fence + 1, "beat": seen.beat + 1}
        unchanged = (self._mine, _COLUMNS.fence == seen.fence, _COLUMNS.beat == seen.beat)
        async with self._connected() as connection:
            done = await connection.execute(RELAYS.update().where(*unchanged).values(taken))
            if done.rowcount == 0:
                return None
            row = (await connection.execute(sa.select(RELAYS).where(self._mine))).one()
        return State.of(row)

    async def save(self, state: State) -> None:
        """Write how far it is and what comes next. Raises LostError."""
        await self._write(state.fence, state.values())

    async def beat(self, fence: int) -> None:
        """Say that the holder lives. Raises LostError."""
        await self._write(fence, {})

    async def release(self, fence: int) -> None:
        """Let the next one take it at once. Raises LostError."""
        await self._write(fence, {"holder": None})

    async def _write(self, fence: int, values: Mapping[str, Any]) -> None:
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
        """A transaction."""
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
                said = "the server is a standby or read-only, and a relay writes how far it is"
            if said is None:
                raise
            self._ready = False
            raise SourceUnavailableError("the database of the relay", said) from error


def create_tables(connection: sa.Connection) -> None:
    """Create the table of relays where it is missing, in a migration: ``op.get_bind()``.

    A relay does so by itself where it may.
    """
    if sa.inspect(connection).has_table(RELAYS.name):
        return
    try:
        with connection.begin_nested():
            _METADATA.create_all(connection)
    except sa.exc.DBAPIError:
        # Two relays that start together both find it missing.
        if not sa.inspect(connection).has_table(RELAYS.name):
            raise
