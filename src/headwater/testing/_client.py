"""A client for tests of streams, in this process or over a socket. Each wait has a time limit."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Self, TypeVar

from headwater.client._transport import httpx
from headwater.protocol import Decoder, Message
from headwater.testing._transport import StreamingTransport, lifespan

A = TypeVar("A")

# Seconds of each wait.
PATIENCE = 5.0
_END_OF_LINE = re.compile(rb"\r\n|\r|\n")
# Messages that the stream may be ahead of the test.
_AHEAD = 10_000


class LiveStream:
    """One open stream. A wait that takes too long raises AssertionError, with what has come.

    Attributes:
        status: the response's status code.
        headers: the response's headers.
    """

    def __init__(self, response: httpx.Response, patience: float) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self._response = response
        self._patience = patience
        self._decoder = Decoder()
        self._messages: deque[Message] = deque()
        self._comments: deque[str] = deque(maxlen=_AHEAD)
        self._seen: deque[Message] = deque(maxlen=5)
        self._rest = b""
        self._ended = False
        self._failure: Exception | None = None
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @property
    def last_event_id(self) -> str:
        """The position after all that has come, also if the test has not taken it."""
        return self._decoder.last_event_id

    @property
    def retry(self) -> int | None:
        """The last reconnection time of the stream, in milliseconds."""
        return self._decoder.retry

    async def next(self, event: str | None = None) -> Message:
        """The next message. With ``event`` it must have this name."""
        await self._until(lambda: bool(self._messages), event or "a message")
        message = self._messages.popleft()
        self._seen.append(message)
        if event is not None and message.event != event:
            raise AssertionError(f"instead of {event!r} came {message!r}")
        return message

    async def take(self, count: int) -> list[Message]:
        """The next ``count`` messages."""
        return [await self.next() for _ in range(count)]

    async def until(self, condition: Callable[[Message], bool]) -> list[Message]:
        """The messages up to and including the first for which ``condition`` is true."""
        found = [await self.next()]
        while not condition(found[-1]):
            found.append(await self.next())
        return found

    async def comment(self) -> str:
        """The next comment, such as ``heartbeat``."""
        await self._until(lambda: bool(self._comments), "a comment")
        return self._comments.popleft()

    async def quiet(self, seconds: float = 0.05) -> None:
        """Check that nothing comes for this time. It waits for all of it, so use it rarely."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._messages and not self._ended:
                    self._news.clear()
                    await self._news.wait()
        if self._messages:
            raise AssertionError(f"nothing should have come, but {self._messages[0]!r} did")

    async def end(self) -> list[Message]:
        """The messages until the server ends the stream."""
        await self._until(lambda: self._ended, "the end of the stream")
        found = list(self._messages)
        self._messages.clear()
        return found

    async def aclose(self) -> None:
        """Disconnect."""
        self._reader.cancel()
        await asyncio.wait([self._reader])
        await self._response.aclose()

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(self._patience):
                while not condition():
                    if self._failure is not None:
                        raise self._failure
                    if self._ended:
                        raise AssertionError(f"the stream ended before {what}; {self._told()}")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(
                f"{what} did not come within {self._patience:g} s; {self._told()}"
            ) from None

    def _told(self) -> str:
        shown = [*self._seen, *self._messages][-5:]
        return f"the last to come: {shown!r}" if shown else "nothing had come"

    async def _read(self) -> None:
        try:
            async for chunk in self._response.aiter_bytes():
                self._messages.extend(self._decoder.feed(chunk))
                *lines, self._rest = _END_OF_LINE.split(self._rest + chunk)
                self._comments.extend(
                    line[1:].decode("utf-8", "replace").strip()
                    for line in lines
                    if line.startswith(b":")
                )
                self._news.set()
                if len(self._messages) > _AHEAD:
                    raise AssertionError(f"more than {_AHEAD} messages wait to be taken")
        except Exception as error:
            self._failure = error
        finally:
            self._ended = True
            self._news.set()


class LiveClient:
    """Sends requests to an application, or to a server at an address, and reads streams.

    ::

        async with LiveClient(app) as client, client.stream("/api/logs/stream") as stream:
            await stream.next("snapshot")
            await log.append("logs", {"message": "hello"})
            assert (await stream.next("log")).json()["message"] == "hello"

    An application runs in this process without a socket. Its lifespan lasts as long as the block.
    With the address that ``running(app)`` gives, the same test goes over a socket.

    Arguments:
        target: an ASGI application, or an address such as ``http://127.0.0.1:8000``.
        headers: sent with each request.
        cookies: sent with each request.
        patience: the longest wait for a response or a message, in seconds.

    Attributes:
        http: the ``httpx.AsyncClient``, for other requests whose responses have an end.
    """

    http: httpx.AsyncClient

    def __init__(
        self,
        target: Any,
        *,
        headers: Mapping[str, str] | None = None,
        cookies: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._target = target
        self._options: dict[str, Any] = {"headers": headers, "cookies": cookies}
        self._patience = patience
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            options = {**self._options, "timeout": self._patience}
            if isinstance(self._target, str):
                client = httpx.AsyncClient(base_url=self._target, **options)
            else:
                state = await stack.enter_async_context(lifespan(self._target))
                transport = StreamingTransport(self._target, state=state)
                client = httpx.AsyncClient(
                    base_url="http://testserver", transport=transport, **options
                )
            self.http = await stack.enter_async_context(client)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def get(self, path: str, **options: Any) -> httpx.Response:
        """GET a response that has an end. The options are those of httpx."""
        return await self._bounded(self.http.get(path, **options), path)

    async def post(self, path: str, **options: Any) -> httpx.Response:
        """POST, for a response that has an end. The options are those of httpx."""
        return await self._bounded(self.http.post(path, **options), path)

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        *,
        method: str = "GET",
        last_event_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> AsyncIterator[LiveStream]:
        """Open a stream, and disconnect at the end of the block. The options are those of httpx.

        Raises AssertionError for a response that is no event stream: read such a one with ``get``.
        """
        sent = {"Accept": "text/event-stream", **(headers or {})}
        if last_event_id is not None:
            sent["Last-Event-ID"] = last_event_id
        # Between two pieces a stream may be silent for as long as it likes.
        timeout = httpx.Timeout(self._patience, read=None)
        request = self.http.build_request(method, path, headers=sent, timeout=timeout, **options)
        response = await self._bounded(self.http.send(request, stream=True), path)
        try:
            kind = response.headers.get("content-type", "")
            if not kind.startswith("text/event-stream"):
                body = (await self._bounded(response.aread(), path))[:500]
                raise AssertionError(f"{path} answered {response.status_code} {kind}: {body!r}")
            stream = LiveStream(response, self._patience)
            try:
                yield stream
            finally:
                await stream.aclose()
        finally:
            await response.aclose()

    async def _bounded(self, answer: Awaitable[A], path: str) -> A:
        try:
            async with asyncio.timeout(self._patience):
                return await answer
        except (TimeoutError, httpx.TimeoutException):
            raise AssertionError(f"{path} did not answer within {self._patience:g} s") from None
