"""An ASGI application in this process: its lifespan, and an httpx transport for endless responses.

httpx's own ``ASGITransport`` returns a response once it is complete, so it never returns a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from headwater.client._transport import httpx

# Pieces that wait for the reader. At more, the application's `send` waits, as on a socket.
_AHEAD = 64
# Seconds in which an application must notice that its client has left.
LEAVES_WITHIN = 5.0

_END = b""

# Seconds in which an application must start, or end.
_WITHIN = 30.0


class StreamingTransport(httpx.AsyncBaseTransport):
    """Runs requests on an application; use it as ``httpx.AsyncClient(transport=...)``.

    When the client closes a response, the application gets a disconnect. If the application runs on
    for five seconds after it, the transport cancels it and raises AssertionError. An exception of
    the application is raised at the client.
    """

    def __init__(self, app: Any, *, state: dict[str, Any] | None = None) -> None:
        self._app = app
        self._state = state or {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        scope = {**_scope(request), "state": dict(self._state)}
        exchange = _Exchange(self._app, scope, await request.aread())
        status, headers = await exchange.head()
        return httpx.Response(status, headers=headers, stream=exchange)


class _Exchange(httpx.AsyncByteStream):
    """One request and its response, between the application's task and the client's."""

    def __init__(self, app: Any, scope: dict[str, Any], body: bytes) -> None:
        self._request: bytes | None = body
        self._left = asyncio.Event()
        self._head: asyncio.Future[tuple[int, list[tuple[bytes, bytes]]]] = (
            asyncio.get_running_loop().create_future()
        )
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(_AHEAD)
        self._raised = False
        self._task: asyncio.Task[None] = asyncio.create_task(app(scope, self._receive, self._send))

    async def head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """The status and headers. Raises what the application raised before them."""
        try:
            either: set[asyncio.Future[Any]] = {self._task, self._head}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # Before the head there is no stream that would have to notice.
            self._left.set()
            self._task.cancel()
            await asyncio.wait([self._task])
            raise
        if not self._head.done():
            self._raised = True
            await self._task
            raise AssertionError("the application returned without an answer")
        return self._head.result()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The body. Raises what the application raised."""
        while True:
            waiting = asyncio.ensure_future(self._pieces.get())
            try:
                await asyncio.wait({waiting, self._task}, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done() and self._pieces.empty():
                    self._raised = True
                    await self._task
                    return
                piece = await waiting
            finally:
                waiting.cancel()
            if piece == _END:
                return
            yield piece

    async def aclose(self) -> None:
        """Disconnect: the application's next ``receive`` says so, and its ``send`` fails."""
        self._left.set()
        while not self._pieces.empty():  # a `send` that waits for room goes on
            self._pieces.get_nowait()
        done, _ = await asyncio.wait([self._task], timeout=LEAVES_WITHIN)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task])
            raise AssertionError(
                f"the application went on for {LEAVES_WITHIN:g} s after its client had left"
            )
        error = None if self._task.cancelled() else self._task.exception()
        # To write to a client that has left may fail; anything else is for the test to see, once.
        if error is not None and not isinstance(error, OSError) and not self._raised:
            raise error

    async def _receive(self) -> dict[str, Any]:
        if self._request is not None:
            body, self._request = self._request, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self._left.is_set():
            # What servers do, by the ASGI specification.
            raise OSError("the client has left")
        if message["type"] == "http.response.start":
            if not self._head.done():
                self._head.set_result((message["status"], list(message.get("headers", []))))
        elif message["type"] == "http.response.body":
            if message.get("body"):
                await self._pieces.put(bytes(message["body"]))
            if not message.get("more_body", False):
                await self._pieces.put(_END)


def _scope(request: httpx.Request) -> dict[str, Any]:
    url = request.url
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": url.scheme,
        "path": url.path,
        "raw_path": url.raw_path.partition(b"?")[0],
        "root_path": "",
        "query_string": url.query,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "server": (url.host, url.port or (443 if url.scheme == "https" else 80)),
        "client": ("127.0.0.1", 123),
    }


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
    """Start the application as a server does, and end it with the block.

    Gives the state that the application filled for its requests. Raises AssertionError when the
    application reports a failure, or answers nothing for 30 s.
    """
    state: dict[str, Any] = {}
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
    task = asyncio.create_task(app(scope, events.get, answers.put))

    async def send(event: str, failure: str) -> None:
        events.put_nowait({"type": f"lifespan.{event}"})
        answer = asyncio.ensure_future(answers.get())
        try:
            await asyncio.wait({answer, task}, timeout=_WITHIN, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                if answer.result()["type"].endswith(".failed"):
                    raise AssertionError(f"{failure}: {answer.result().get('message', '')}")
            # By the ASGI specification an application that raises at the start has no lifespan.
            elif not task.done():
                task.cancel()
                raise AssertionError(f"the application answers no {event} for {_WITHIN:g} s")
        finally:
            answer.cancel()

    await send("startup", "the application did not start")
    try:
        yield state
    finally:
        await send("shutdown", "the application failed while it ended")
