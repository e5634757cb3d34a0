"""The client for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from typing import Self, Unpack

from headwater.client.feed import FeedValue, read_feed, stream_url
from headwater.client.session import MAX_ERROR_BODY, Session, StreamOptions
from headwater.client.transport import IDLE_TIMEOUT, cause_of, cookie_jar, httpx, timeouts
from headwater.errors import UsageError
from headwater.protocol import Message, Stop, Wait

__all__ = ["AsyncFeed", "AsyncStream", "follow", "stream"]


class AsyncStream:
    """An async iterator over the messages of one stream, which reconnects by itself.

    It ends when the server says 204. Raises ResponseError for an answer that cannot be followed,
    EventTooLargeError, and with ``give_up_after`` the last failure.
    """

    def __init__(
        self,
        session: Session,
        client: httpx.AsyncClient | None,
        cookies: Mapping[str, str] | None,
        idle_timeout: float | None,
    ) -> None:
        if client is not None and cookies is not None:
            raise UsageError("cookies: give them to your own client")
        self._session = session
        self._client = client or httpx.AsyncClient(cookies=cookie_jar(session.url, cookies))
        self._owned = client is None
        self._timeout = timeouts(idle_timeout)
        self._messages = self._run()

    @property
    def last_event_id(self) -> str:
        """The position of what was handed over last; empty when there was none."""
        return self._session.last_event_id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection. Nothing more arrives."""
        await self._messages.aclose()
        if self._owned:
            await self._client.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        return await anext(self._messages)

    async def _run(self) -> AsyncGenerator[Message, None]:
        session = self._session
        while True:
            request = session.request()
            decision: Wait | Stop
            try:
                async with self._client.stream(
                    "GET",
                    request.url,
                    headers=request.headers,
                    timeout=self._timeout,
                    follow_redirects=True,
                ) as response:
                    if session.opened(
                        response.status_code, response.headers.get("content-type", "")
                    ):
                        async for chunk in response.aiter_bytes():
                            for message in session.feed(chunk):
                                yield message
                        decision = session.lost("the server ended the stream")
                    else:
                        decision = session.refused(
                            response.status_code,
                            response.headers,
                            await _error_body(response),
                            now=time.time(),
                        )
            except (httpx.RequestError, httpx.InvalidURL) as error:
                decision = session.lost(cause_of(error))
            if isinstance(decision, Stop):
                if decision.error is not None:
                    raise decision.error
                return
            await asyncio.sleep(decision.seconds)


class AsyncFeed:
    """An async iterator over the values of one feed: Snapshot, Item, Removed, Reset."""

    def __init__(self, messages: AsyncStream) -> None:
        self._stream = messages

    @property
    def last_event_id(self) -> str:
        """The position of what was handed over last; empty when there was none."""
        return self._stream.last_event_id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection. Nothing more arrives."""
        await self._stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FeedValue:
        while True:
            value = read_feed(await anext(self._stream))
            if value is not None:
                return value


def stream(
    url: str,
    *,
    cookies: Mapping[str, str] | None = None,
    client: httpx.AsyncClient | None = None,
    idle_timeout: float | None = IDLE_TIMEOUT,
    **options: Unpack[StreamOptions],
) -> AsyncStream:
    """Follow any event stream; it connects when it is iterated.

    ::

        async with stream("https://example.com/events", token=key) as messages:
            async for message in messages:
                print(message.event, message.data)

    ``idle_timeout`` is the longest silence in seconds, heartbeats included, after which the
    connection is taken for dead; None waits for ever. ``client`` is used as it is and stays open.
    The other options are in ``StreamOptions``. Raises UsageError for what cannot work.
    """
    return AsyncStream(Session(url, **options), client, cookies, idle_timeout)


def follow(
    url: str,
    *,
    cookies: Mapping[str, str] | None = None,
    client: httpx.AsyncClient | None = None,
    idle_timeout: float | None = IDLE_TIMEOUT,
    **options: Unpack[StreamOptions],
) -> AsyncFeed:
    """Follow a feed, given the address of either of its halves; options as in ``stream``.

    ::

        async with follow("https://example.com/api/logs?level=error", token=key) as feed:
            async for value in feed:
                if isinstance(value, Item):
                    print(value.data)

    Raises ResponseError also when the server ends the stream because the right to it was lost.
    """
    return AsyncFeed(
        stream(
            stream_url(url), cookies=cookies, client=client, idle_timeout=idle_timeout, **options
        )
    )


async def _error_body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) >= MAX_ERROR_BODY:
            break
    return bytes(body)
