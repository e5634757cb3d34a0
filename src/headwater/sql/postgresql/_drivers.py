"""A connection of its own to PostgreSQL, on the driver that the engine has.

SQLAlchemy hides how drivers differ, except in notifications and in ending a statement early.
"""

from __future__ import annotations

import asyncio
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from headwater.errors import DeclarationError
from headwater.sql._tracking import quote
from headwater.sql.postgresql._connections import separate_pool

# The channel, and what the sender added.
Notification = tuple[str, str]


class OwnConnection(ABC):
    """One connection in autocommit that is kept for long, and taken from no pool."""

    def __init__(self, engine: AsyncEngine, held: AsyncConnection, driver: Any) -> None:
        self._engine = engine
        self._held = held
        self._driver = driver

    @abstractmethod
    async def ask(self, statement: str) -> Sequence[Any]:
        """The first row of a statement without parameters."""

    @abstractmethod
    async def listen(self, channel: str) -> None:
        """Receive the notifications of a channel."""

    @abstractmethod
    async def unlisten(self, channel: str) -> None:
        """Undo ``listen``."""

    @abstractmethod
    async def received(self, seconds: float) -> Collection[Notification]:
        """What came, after at most so many seconds. Raises an error if the connection is lost."""

    @abstractmethod
    def break_off(self) -> None:
        """Break the connection, and so a statement that the server does not answer."""

    async def close(self) -> None:
        with suppress(Exception):
            await self._held.invalidate()
            await self._held.close()
        with suppress(Exception):
            await self._engine.dispose()


class _Psycopg(OwnConnection):
    async def ask(self, statement: str) -> Sequence[Any]:
        cursor = await self._driver.execute(statement, prepare=False)
        row: Sequence[Any] = await cursor.fetchone()
        return row

    async def listen(self, channel: str) -> None:
        await self._driver.execute(f"LISTEN {quote(channel)}")

    async def unlisten(self, channel: str) -> None:
        await self._driver.execute(f"UNLISTEN {quote(channel)}")

    async def received(self, seconds: float) -> Collection[Notification]:
        # psycopg keeps what arrives between two calls for the next one.
        found = self._driver.notifies(timeout=seconds, stop_after=1)
        return {(each.channel, each.payload) async for each in found}

    def break_off(self) -> None:
        # psycopg waits for the server even when the task is cancelled, so close the socket.
        with suppress(OSError), socket.socket(fileno=os.dup(self._driver.fileno())) as its:
            its.shutdown(socket.SHUT_RDWR)


class _Asyncpg(OwnConnection):
    def __init__(self, engine: AsyncEngine, held: AsyncConnection, driver: Any) -> None:
        super().__init__(engine, held, driver)
        # Equal ones are one, so there are as many as channels and senders at most.
        self._came: dict[Notification, None] = {}
        self._news = asyncio.Event()
        driver.add_termination_listener(lambda _: self._news.set())

    async def ask(self, statement: str) -> Sequence[Any]:
        # asyncpg prepares a statement before it runs it: a pooler in transaction mode keeps both on
        # one connection of the server only within a transaction.
        async with self._driver.transaction():
            row: Sequence[Any] = await self._driver.fetchrow(statement)
        return row

    async def listen(self, channel: str) -> None:
        await self._driver.add_listener(channel, self._receive)

    async def unlisten(self, channel: str) -> None:
        await self._driver.remove_listener(channel, self._receive)

    async def received(self, seconds: float) -> Collection[Notification]:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        if self._driver.is_closed():
            raise ConnectionError("the connection was closed")
        self._news.clear()
        came, self._came = self._came, {}
        return came

    def break_off(self) -> None:
        self._driver.terminate()

    def _receive(self, _: object, __: int, channel: str, payload: str) -> None:
        self._came[(channel, payload)] = None
        self._news.set()


DRIVERS: dict[str, type[OwnConnection]] = {"psycopg": _Psycopg, "asyncpg": _Asyncpg}


def check_driver(engine: AsyncEngine) -> None:
    """Raises DeclarationError for a driver that is not known here."""
    if engine.dialect.driver not in DRIVERS:
        raise DeclarationError(
            f"tables on PostgreSQL are read by psycopg or asyncpg, not by {engine.dialect.driver}: "
            "give an engine of postgresql+psycopg://… or postgresql+asyncpg://…; the "
            "application may write by another one, which listen= names"
        )


async def open_connection(engine: AsyncEngine) -> OwnConnection:
    """A connection as the engine makes them, for as long as it is needed."""
    own = separate_pool(engine)
    held = None
    try:
        held = await own.connect()
        await held.execution_options(isolation_level="AUTOCOMMIT")
        raw = await held.get_raw_connection()
        return DRIVERS[engine.dialect.driver](own, held, raw.driver_connection)
    except BaseException:
        if held is not None:
            await held.close()
        await own.dispose()
        raise
