"""The client for asyncio.

A task of its own reads the connection, and the iteration takes what it has read. So a wait that is
cancelled, by a time-out say, costs nothing: the connection stays, and the next wait goes on.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Any, Generic, Self, TypeVar

from headwater.client._connections import Followed, Shell, run
from headwater.client._feed_session import FeedSession
from headwater.client._run import RunEvent, RunSession
from headwater.client._session import Session
from headwater.client._transport import cookie_jar, httpx, new_client
from headwater.client._values import FeedValue, T
from headwater.errors import UsageError
from headwater.protocol import Message

V = TypeVar("V")


class Following(Followed[V]):
    """An async iterator that reconnects by itself; see ``AsyncStream`` and ``AsyncFeed``."""

    def __init__(self, session: Session[V], client: httpx.AsyncClient | None = None) -> None:
        super().__init__(session, client, httpx.AsyncClient)
        self._reader: _Reader = _Reader(session)
        self._client = client
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                # A block that ends without an error has handled the last value.
                await self._keep()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the connection, and wait until it is closed. The iteration ends, in any task."""
        self._close()
        if self._task is not None and self._loop is asyncio.get_running_loop():
            await asyncio.wait([self._task])

    def close(self) -> None:
        """Close the connection, from any thread, without waiting. The iteration ends."""
        if self._loop is None:
            self._closed = True
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        self._reader.news.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> V:
        reader, session = self._reader, self._session
        self._begin()
        while not self._closed:
            await self._keep()
            try:
                value = session.take()
            except BaseException:
                await self.aclose()
                raise
            if value is not None:
                return value
            reader.room.set()
            if reader.done:
                failure, reader.failure = reader.failure, None
                if failure is not None:
                    raise failure
                break
            reader.news.clear()
            await reader.news.wait()
        raise StopAsyncIteration

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is loop or self._closed:
            return
        if self._loop is not None:
            raise UsageError(
                "this was followed in another event loop: make a new one here, with "
                "last_event_id= to go on where this one was"
            )
        self._loop = loop
        self._task = loop.create_task(self._reader.read(self._client))
        # An iterator that nobody refers to must not keep its connection until the loop ends.
        weakref.finalize(self, _abandon, loop, self._task).atexit = False

    async def _keep(self) -> None:
        position = self._session.handled()
        if position is not None and self._session.on_position is not None:
            await self._reader.settled(self._session.on_position(position))


class AsyncStream(Following[Message]):
    """An async iterator over the messages of one stream, which reconnects by itself.

    It ends when the server answers 204, and when it is closed. Raises ResponseError for a response
    that cannot be followed, EventTooLargeError, and with ``give_up_after`` the last failure. After
    an error it has ended. A wait that is cancelled loses nothing.

    ``await aclose()`` closes the connection and ends the iteration, in any task.
    ``close()`` does it from any thread, without waiting.

    Attributes:
        last_event_id: the position of the last value that was returned; empty before the first.
        response: the latest response, for its status and headers; None before the first.
    """


class AsyncFeed(Following[FeedValue[T]], Generic[T]):
    """An async iterator over the values of one feed: Snapshot, Item, Removed, Reset.

    Ends, raises and closes as ``AsyncStream`` does, and has its attributes. Raises ResponseError
    also when the right to the feed is lost.
    """

    _session: FeedSession

    @property
    def polling(self) -> bool:
        """Whether it polls the REST half at the moment, because no stream comes through."""
        return self._session.polling


class AsyncRunStream(Following[RunEvent]):
    """An async iterator over the events of one run, which reconnects by itself.

    It ends after ``end``, and when it is closed. It also ends when the server answers 204, because
    an earlier iteration had the end. Raises and closes as ``AsyncStream`` does, and has its
    attributes. Raises ResponseError also when the right to the run is lost.
    """

    _session: RunSession

    @property
    def state(self) -> str | None:
        """The last state that the server sent: ``queued``, ``running``, or how it ended."""
        return self._session.state


class _Reader(Shell):
    """Reads the connections of one followed stream, in a task of its own.

    Attributes:
        news: set when values wait in the session, and when the task has ended.
        room: set when the caller has taken all values. Until then nothing more is read, so a slow
            caller has one piece of the network in memory.
        done: whether the task has ended, with or without ``failure``.
    """

    def __init__(self, session: Session[Any]) -> None:
        self.news = asyncio.Event()
        self.room = asyncio.Event()
        self.done = False
        self.failure: Exception | None = None
        self._session = session
        self._chunks: AsyncIterator[bytes] | None = None

    async def read(self, client: httpx.AsyncClient | None) -> None:
        """Read connections, through this client or one of its own, until the stream ends."""
        session = self._session
        try:
            if client is not None:
                self.client = client
                await run(session, self)
                return
            jar = cookie_jar(session.url, session.cookies)
            # In a thread, since reading the certificates holds up a loop for tens of ms.
            own = await asyncio.to_thread(new_client, httpx.AsyncClient, cookies=jar)
            async with own as self.client:
                await run(session, self)
        except Exception as error:
            self.failure = error
        finally:
            self.done = True
            self.news.set()

    async def settled(self, result: Any) -> Any:
        return await result if inspect.isawaitable(result) else result

    async def send(self, request: httpx.Request, auth: Any) -> httpx.Response:
        return await self.client.send(request, stream=True, auth=auth, follow_redirects=False)

    def limit(self, seconds: float | None) -> asyncio.Timeout:
        return asyncio.timeout(seconds)

    async def chunk(self, response: httpx.Response) -> bytes | None:
        if self._chunks is None:
            self._chunks = response.aiter_bytes()
        return await anext(self._chunks, None)

    async def close(self, response: httpx.Response) -> None:
        chunks, self._chunks = self._chunks, None
        try:
            # Not left to the garbage collection, which would do it in another task.
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
        finally:
            await response.aclose()

    async def hand_over(self) -> None:
        self.news.set()
        while self._session.waiting:
            self.room.clear()
            await self.room.wait()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _abandon(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    if not loop.is_closed():
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(task.cancel)
