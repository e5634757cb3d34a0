"""A poll of the tail that is read in several batches, with the transaction that it is in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.errors import PositionError
from headwater.feeds._source import Page
from headwater.sql._judging import Questions
from headwater.sql.query._look import Look
from headwater.sql.query._place import QueryPlace
from headwater.sql.query._poll import Affected, Poll

__all__ = ["OpenPoll", "PollReader", "ReadPage", "WaitingPage"]

# Reads a page in a transaction that saw this.
ReadPage = Callable[[sa.Connection, Look], Page]


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


class PollReader(Protocol):
    """What a poll needs of its reader."""

    async def connect(self) -> AsyncConnection:
        """A connection, which the poll closes."""
        ...

    def poll(
        self, connection: sa.Connection, place: QueryPlace, chunk: int, questions: Questions, /
    ) -> Poll:
        """Begin a poll for all filters."""
        ...

    def note(self, look: Look, /) -> None:
        """The tail is at this snapshot."""
        ...

    def translated(self) -> AbstractAsyncContextManager[None]:
        """Errors of the database that pass by themselves become SourceUnavailableError."""
        ...


class OpenPoll:
    """A poll of the tail, with the transaction that it reads in.

    Attributes:
        pages: those that were asked for before the transaction began, and are read in it.
        long: its first batch was not the last.
    """

    def __init__(
        self, reader: PollReader, place: QueryPlace, chunk: int, questions: Questions
    ) -> None:
        self.place = place
        self.done = False
        self.long = False
        self.pages: list[WaitingPage] = []
        self.end = place
        # A page was read in it.
        self.served = False
        self.retiring: QueryPlace | None = None
        self._reader = reader
        self._chunk = chunk
        self._questions = questions
        self._connection: AsyncConnection | None = None
        self._poll: Poll | None = None
        self._affected: Iterator[Sequence[Affected]] = iter(())

    async def read(self, epoch: str) -> Sequence[Affected]:
        async with self._reader.translated():
            if self._connection is None:
                self._connection = await self._reader.connect()
                found = await self._connection.run_sync(self._begin, epoch)
            else:
                found = await self._connection.run_sync(lambda _: next(self._affected, None))
        assert self._poll is not None
        self.done = found is None or self._poll.done
        self.long = self.long or not self.done
        return found or ()

    def _begin(self, connection: sa.Connection, epoch: str) -> Sequence[Affected] | None:
        poll = self._poll = self._reader.poll(connection, self.place, self._chunk, self._questions)
        if poll.look.epoch != epoch:
            raise PositionError(str(self.place), "unknown", "the database is another one")
        self._reader.note(poll.look)
        self.end, self.retiring = poll.end, poll.look.retiring
        self._affected = poll.affected()
        return next(self._affected, None)

    async def page(self, read: ReadPage) -> Page:
        """Read a page in its transaction."""
        assert self._connection is not None and self._poll is not None
        self.served = True
        connection, look = self._connection, self._poll.look
        async with self._reader.translated():
            if connection.dialect.name == "sqlite":
                return await connection.run_sync(read, look)
            # PostgreSQL would run no further statement of a transaction with one that failed.
            async with connection.begin_nested():
                return await connection.run_sync(read, look)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            async with self._reader.translated():
                await connection.close()
