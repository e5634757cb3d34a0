"""A poll of the tail that is read in several batches, with the transaction that it is in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.feeds._source import Page
from headwater.sql.query._look import Look
from headwater.sql.query._place import QueryPlace
from headwater.sql.query._poll import Affected, Poll

# Reads a page in a transaction that saw this.
ReadPage = Callable[[Look], Page]


@dataclass(slots=True)
class WaitingPage:
    """A page that waits for a transaction of the tail.

    Attributes:
        patient: it waits however long the tail's present one takes.
    """

    read: ReadPage
    answer: asyncio.Future[Page | None]
    patient: bool

    def answer_with(self, answer: Page | BaseException | None) -> None:
        """Give it what was read, or an error; None: it reads by itself."""
        if self.answer.done():
            return
        if isinstance(answer, Exception):
            self.answer.set_exception(answer)
        elif isinstance(answer, BaseException):
            self.answer.cancel()
        else:
            self.answer.set_result(answer)


class OpenPoll:
    """A poll of the tail, with the transaction that it reads in.

    Arguments:
        connected: opens a connection, at the first ``read``.
        begin: begins the transaction and the poll.

    Attributes:
        poll: the poll itself, once it has begun.
        pages: those that were asked for before the transaction began, and are read in it.
        long: its first batch was not the last.
    """

    poll: Poll

    def __init__(
        self,
        place: QueryPlace,
        connected: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
        begin: Callable[[sa.Connection], Poll],
    ) -> None:
        self.place = place
        self.done = False
        self.long = False
        self.pages: list[WaitingPage] = []
        # A page was read in it.
        self.served = False
        self._connected = connected
        self._begin = begin
        self._closing = AsyncExitStack()
        self._connection: AsyncConnection | None = None
        self._affected: Iterator[Sequence[Affected]] | None = None

    async def read(self) -> Sequence[Affected]:
        """The next batch."""
        if self._connection is None:
            self._connection = await self._closing.enter_async_context(self._connected())
        found = await self._connection.run_sync(self._next)
        self.done = found is None or self.poll.done
        self.long = self.long or not self.done
        return found or ()

    def _next(self, connection: sa.Connection) -> Sequence[Affected] | None:
        if self._affected is None:
            self.poll = self._begin(connection)
            self._affected = self.poll.affected()
        return next(self._affected, None)

    async def page(self, read: ReadPage) -> Page:
        """Read a page in its transaction."""
        assert self._connection is not None
        self.served = True
        connection, look = self._connection, self.poll.look
        if connection.dialect.name == "sqlite":
            return await connection.run_sync(lambda _: read(look))
        # PostgreSQL would run no further statement of a transaction with one that failed.
        async with connection.begin_nested():
            return await connection.run_sync(lambda _: read(look))

    async def close(self) -> None:
        await self._closing.aclose()
