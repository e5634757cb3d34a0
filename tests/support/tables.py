"""Tracked models, and a sink that records what a tail delivers."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import DateTime
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from headwater.errors import SourceUnavailableError
from headwater.sql import track
from headwater.sql._table import TableSource
from support.until import until

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Base(DeclarativeBase):
    pass


class Aware(TypeDecorator[datetime]):
    """Aware moments over a naive column."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


@track(indexes=[("user_id",), ("user_id", "level")])
class Log(Base):
    __tablename__ = "logs"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int]
    level: Mapped[str] = mapped_column(server_default="info")
    message: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[datetime | None] = mapped_column(Aware)


@track(keyed=True, filters=("user_id", "team_id"))
class Client(Base):
    __tablename__ = "clients"

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int]
    team_id: Mapped[int] = mapped_column(server_default="1")
    name: Mapped[str | None] = mapped_column(unique=True)
    seen_at: Mapped[datetime | None] = mapped_column(Aware)


def pages_read(monkeypatch) -> list[int]:
    """Records the limits of all pages that are read from tables."""
    read = []
    page = TableSource.page

    async def counted(self, limit, **where):
        read.append(limit)
        return await page(self, limit, **where)

    monkeypatch.setattr(TableSource, "page", counted)
    return read


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **length: float) -> None:
        self.now += timedelta(**length)


class Recorder:
    """Records what is delivered; ``until`` and ``count`` wait for it."""

    def __init__(self) -> None:
        self.changes: list[Any] = []
        self.heads: list[Any] = []
        self.resets: list[Any] = []
        self.retired: list[Any] = []
        self.interrupts: list[Any] = []
        self._more = asyncio.Event()

    def deliver(self, changes: Any, head: Any) -> None:
        self.changes += changes
        self.heads.append(head)
        self._more.set()

    def retire(self, before: Any) -> None:
        self.retired.append(before)
        self._more.set()

    def interrupt(self, why: Any) -> None:
        self.interrupts.append(why)
        self._more.set()

    def reset(self, reason: Any, head: Any) -> None:
        self.resets.append((reason, head))
        self._more.set()

    def wanted(self, names: Any) -> dict[str, frozenset[Any]]:
        return {}

    async def until(self, holds: Any, seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            while not holds(self):
                self._more.clear()
                await self._more.wait()

    async def count(self, wanted: int) -> None:
        await self.until(lambda self: len(self.changes) >= wanted)


async def fails(table: Any, *sentences: str) -> None:
    """Reads of the table or query fail soon, with these sentences."""

    async def failed() -> bool:
        try:
            await table.where().page(9)
        except SourceUnavailableError as error:
            return all(one in str(error) for one in sentences)
        return False

    await until(failed, 5, pause=0.05)
