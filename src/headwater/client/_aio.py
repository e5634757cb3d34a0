"""The client for asyncio.

A task of its own reads the connection, and the iteration takes what it has read. So a wait that is
cancelled, by a time-out say, costs nothing: the connection stays, and the next wait goes on.
"""

from __future__ import annotations

import asyncio
import inspect
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from headwater.client._feed_session import FeedSession
from headwater.client._run import RunEvent, RunSession
from headwater.client._session import MAX_ERROR_BODY, Request, Session
from headwater.client._transport import (
    CONNECT_FAULTS,
    LostError,
    cause_of,
    cookie_jar,
    httpx,
    least,
    redirected,
    timeouts,
    unknown_encoding,
)
from headwater.client._values import FeedValue, T
from headwater.errors import HeadwaterError, UsageError
from headwater.protocol import Message, Stop, Wait

__all__ = ["AsyncFeed", "AsyncRunStream", "AsyncStream", "Following"]

V = TypeVar("V")


class Following(Generic[V]):
    """An async iterator that reconnects by itself; see ``AsyncStream`` and ``AsyncFeed``."""

    def __init__(
        self,
        session: Session[V],
        client: httpx.AsyncClient | None,
        cookies: Mapping[str, str] | None,
        idle_timeout: float | None,
    ) -> None:
        if client is not None and cookies is not None:
            raise UsageError("cookies: give them to your own client")
        self._session = session
        self._reader = _Reader(session, client, cookies, idle_timeout)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def last_event_id(self) -> str:
        """The position of what was handed over last; empty when there was none."""
        return self._session.last_event_id

    @property
    def response(self) -> httpx.Response | None:
        """The newest answer of the server, for its status and headers; None before the first."""
        return self._reader.response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        while True:
            if self._closed:
                raise StopAsyncIteration
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
                raise StopAsyncIteration
            reader.news.clear()
            await reader.news.wait()

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
        self._task = loop.create_task(self._reader.run())
        # One that nobody refers to any more must not hold its connection until the loop ends.
        weakref.finalize(self, _abandon, loop, self._task).atexit = False

    async def _keep(self) -> None:
        position = self._session.handled()
        if position is not None and self._session.on_position is not None:
            kept = self._session.on_position(position)
            if inspect.isawaitable(kept):
                await kept


class AsyncStream(Following[Message]):
    """An async iterator over the messages of one stream, which reconnects by itself.

    It ends when the server says 204, and when it is closed. Raises ResponseError for an answer that
    cannot be followed, EventTooLargeError, and with ``give_up_after`` the last failure; after an
    error it has ended. A wait that is cancelled loses nothing.

    ``await aclose()`` closes the connection and ends the iteration, in any task.
    ``close()`` does it from any thread, without waiting.

    Attributes:
        last_event_id: the position of what was handed over last; empty when there was none.
        response: the newest answer of the server, for its status and headers; None before it.
    """


class AsyncFeed(Following[FeedValue[T]], Generic[T]):
    """An async iterator over the values of one feed: Snapshot, Item, Removed, Reset.

    Ends, raises and closes as ``AsyncStream`` does, and has its attributes. Raises ResponseError
    also when the right to the feed is lost.
    """

    _session: FeedSession

    @property
    def polling(self) -> bool:
        """Whether it asks the REST half just now, since no stream comes through."""
        return self._session.polling


class AsyncRunStream(Following[RunEvent]):
    """An async iterator over the events of one run, which reconnects by itself.

    It ends after ``end``, when the server says 204 since the end was had before, and when it is
    closed. Raises and closes as ``AsyncStream`` does, and has its attributes. Raises ResponseError
    also when the right to the run is lost.
    """

    _session: RunSession

    @property
    def state(self) -> str | None:
        """The state that the run said last: ``queued``, ``running``, or how it ended."""
        return self._session.state


class _Reader:
    """The connection's side of a followed stream, in a task.

    Attributes:
        news: set when there is something to take, or ``done``.
        room: set when everything was taken. Until then no more is decoded, so a slow consumer holds
            two pieces of the network at most.
        done: the task has ended, with ``failure`` or in good order.
    """

    def __init__(
        self,
        session: Session[Any],
        client: httpx.AsyncClient | None,
        cookies: Mapping[str, str] | None,
        idle_timeout: float | None,
    ) -> None:
        self.news = asyncio.Event()
        self.room = asyncio.Event()
        self.done = False
        self.failure: Exception | None = None
        self.response: httpx.Response | None = None
        self._session = session
        self._own = client
        self._cookies = cookies
        self._idle = idle_timeout
        self._timeout = timeouts(idle_timeout)

    async def run(self) -> None:
        try:
            if self._own is not None:
                await self._follow(self._own)
            else:
                jar = cookie_jar(self._session.url, self._cookies)
                # In a thread, since reading the certificates holds up a loop for tens of ms.
                made = await asyncio.to_thread(httpx.AsyncClient, cookies=jar)
                async with made as client:
                    await self._follow(client)
        except Exception as error:
            self.failure = error
        finally:
            self.done = True
            self.news.set()

    async def _follow(self, client: httpx.AsyncClient) -> None:
        while True:
            token = await self._token()
            request = self._session.request(token, now=time.monotonic())
            if request.polls:
                decision = await self._poll(client, request)
            else:
                decision = await self._stream(client, request)
            if isinstance(decision, Stop):
                if decision.error is not None:
                    raise decision.error
                return
            await asyncio.sleep(decision.seconds)

    async def _token(self) -> str | None:
        token: Any = self._session.token
        if callable(token):
            token = token()
            if inspect.isawaitable(token):
                token = await token
        return token  # type: ignore[no-any-return]

    async def _stream(self, client: httpx.AsyncClient, request: Request) -> Wait | Stop:
        session, early = self._session, request.first_byte_within
        limit = asyncio.timeout(least(early, self._idle))
        try:
            # A head that comes byte by byte passes the time-out of every single read.
            async with limit, self._answer(client, request) as response:
                status = response.status_code
                if not session.opened(status, response.headers):
                    body = await _body(response, MAX_ERROR_BODY)
                    return session.refused(status, response.headers, body, now=time.time())
                if encoding := unknown_encoding(response, client):
                    return Stop(session.unreadable(status, encoding))
                if early is None:
                    limit.reschedule(None)
                if session.on_open is not None:
                    noted = session.on_open(response)
                    if inspect.isawaitable(noted):
                        await noted
                async with _chunks(response) as chunks:
                    while (chunk := await _next(chunks)) is not None:
                        limit.reschedule(None)
                        await self._take(chunk)
        except LostError as error:
            return session.lost(str(error))
        except TimeoutError:
            if not limit.expired():
                raise
            return session.late()
        return session.ended(now=time.time())

    async def _poll(self, client: httpx.AsyncClient, request: Request) -> Wait | Stop:
        session = self._session
        assert isinstance(session, FeedSession)
        await self._until_room()
        try:
            async with asyncio.timeout(self._idle), self._answer(client, request) as response:
                if encoding := unknown_encoding(response, client):
                    return Stop(session.unreadable(response.status_code, encoding))
                body = await _body(response, session.max_event_bytes)
        except LostError as error:
            return session.poll_lost(str(error))
        except TimeoutError:
            return session.poll_lost("the answer did not come in time")
        decision = session.polled(
            response.status_code, response.headers, body, now=time.monotonic(), wall=time.time()
        )
        self.news.set()
        return decision

    @asynccontextmanager
    async def _answer(
        self, client: httpx.AsyncClient, request: Request
    ) -> AsyncIterator[httpx.Response]:
        """The answer after all redirects, with its body still to come. Raises LostError."""
        session = self._session
        followed = 0
        try:
            following: httpx.Request | None = client.build_request(
                request.method,
                request.url,
                headers=request.headers,
                content=request.content,
                timeout=self._timeout,
            )
            auth = session.auth if session.signs_in else httpx.USE_CLIENT_DEFAULT
            while following is not None:
                response = await client.send(
                    following, stream=True, auth=auth, follow_redirects=False
                )
                # Only the first host is given what signs in.
                auth = None
                following = response.next_request
                if following is not None:
                    await response.aclose()
                    redirected(response, followed)
                    followed += 1
        except HeadwaterError:
            raise
        except CONNECT_FAULTS as error:
            raise LostError(cause_of(error)) from error
        self.response = response
        try:
            yield response
        finally:
            await response.aclose()

    async def _take(self, chunk: bytes) -> None:
        session = self._session
        await self._until_room()
        session.feed(chunk)
        self.news.set()
        failure = session.check()
        if failure is not None:
            await self._until_room()
            raise failure

    async def _until_room(self) -> None:
        while self._session.waiting:
            self.room.clear()
            await self.room.wait()


@asynccontextmanager
async def _chunks(response: httpx.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    chunks = response.aiter_bytes()
    try:
        yield chunks
    finally:
        # Not left to the garbage collection, which would do it in another task.
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await anext(chunks, None)
    except httpx.RequestError as error:
        raise LostError(cause_of(error)) from error


async def _body(response: httpx.Response, limit: int) -> bytes:
    """The body, cut at ``limit``. Raises LostError."""
    body = bytearray()
    async with _chunks(response) as chunks:
        while len(body) < limit and (chunk := await _next(chunks)) is not None:
            body += chunk
    return bytes(body[:limit])


def _abandon(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    if not loop.is_closed():
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(task.cancel)
