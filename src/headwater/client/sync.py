"""The client without asyncio: the same names, for plain ``for`` loops and threads."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from types import TracebackType
from typing import Self, Unpack

from headwater.client.feed import FeedValue, read_feed, stream_url
from headwater.client.session import MAX_ERROR_BODY, Session, StreamOptions
from headwater.client.transport import IDLE_TIMEOUT, cause_of, cookie_jar, httpx, timeouts
from headwater.errors import UsageError
from headwater.protocol import Message, Stop, Wait

__all__ = ["Feed", "Stream", "follow", "stream"]


class Stream:
    """An iterator over the messages of one stream, which reconnects by itself.

    Ends and raises as ``headwater.client.AsyncStream`` does.
    """

    def __init__(
        self,
        session: Session,
        client: httpx.Client | None,
        cookies: Mapping[str, str] | None,
        idle_timeout: float | None,
    ) -> None:
        if client is not None and cookies is not None:
            raise UsageError("cookies: give them to your own client")
        self._session = session
        self._client = client or httpx.Client(cookies=cookie_jar(session.url, cookies))
        self._owned = client is None
        self._timeout = timeouts(idle_timeout)
        self._messages = self._run()

    @property
    def last_event_id(self) -> str:
        """The position of what was handed over last; empty when there was none."""
        return self._session.last_event_id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Nothing more arrives."""
        self._messages.close()
        if self._owned:
            self._client.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        return next(self._messages)

    def _run(self) -> Generator[Message, None, None]:
        session = self._session
        while True:
            request = session.request()
            decision: Wait | Stop
            try:
                with self._client.stream(
                    "GET",
                    request.url,
                    headers=request.headers,
                    timeout=self._timeout,
                    follow_redirects=True,
                ) as response:
                    if session.opened(
                        response.status_code, response.headers.get("content-type", "")
                    ):
                        for chunk in response.iter_bytes():
                            yield from session.feed(chunk)
                        decision = session.lost("the server ended the stream")
                    else:
                        decision = session.refused(
                            response.status_code,
                            response.headers,
                            _error_body(response),
                            now=time.time(),
                        )
            except (httpx.RequestError, httpx.InvalidURL) as error:
                decision = session.lost(cause_of(error))
            if isinstance(decision, Stop):
                if decision.error is not None:
                    raise decision.error
                return
            time.sleep(decision.seconds)


class Feed:
    """An iterator over the values of one feed: Snapshot, Item, Removed, Reset."""

    def __init__(self, messages: Stream) -> None:
        self._stream = messages

    @property
    def last_event_id(self) -> str:
        """The position of what was handed over last; empty when there was none."""
        return self._stream.last_event_id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Nothing more arrives."""
        self._stream.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> FeedValue:
        while True:
            value = read_feed(next(self._stream))
            if value is not None:
                return value


def stream(
    url: str,
    *,
    cookies: Mapping[str, str] | None = None,
    client: httpx.Client | None = None,
    idle_timeout: float | None = IDLE_TIMEOUT,
    **options: Unpack[StreamOptions],
) -> Stream:
    """Follow any event stream; see ``headwater.client.stream``."""
    return Stream(Session(url, **options), client, cookies, idle_timeout)


def follow(
    url: str,
    *,
    cookies: Mapping[str, str] | None = None,
    client: httpx.Client | None = None,
    idle_timeout: float | None = IDLE_TIMEOUT,
    **options: Unpack[StreamOptions],
) -> Feed:
    """Follow a feed, given the address of either of its halves; see ``headwater.client.follow``."""
    return Feed(
        stream(
            stream_url(url), cookies=cookies, client=client, idle_timeout=idle_timeout, **options
        )
    )


def _error_body(response: httpx.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) >= MAX_ERROR_BODY:
            break
    return bytes(body)
