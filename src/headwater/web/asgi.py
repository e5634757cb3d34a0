"""Streams on plain ASGI, without a framework.

async def app(scope, receive, send):
    await serve_events(hub, handler, scope, receive, send)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal
from urllib.parse import parse_qs

from headwater.delivery._direct_sender import DirectSender
from headwater.delivery._event_stream import MAX_PENDING, EventStream
from headwater.delivery._heartbeat import heartbeat_event
from headwater.delivery._hub import Hub
from headwater.delivery._sender import AsgiSender
from headwater.delivery._stream import Stream, stream_headers
from headwater.errors import DeclarationError
from headwater.feeds._checks import check_count, check_kind, check_seconds
from headwater.protocol import Event, decode_last_event_id, to_json
from headwater.web._incoming import Incoming

__all__ = [
    "SSE",
    "TRANSPORT",
    "Connection",
    "Sending",
    "last_event_id",
    "run_handler",
    "serve_events",
]

logger = logging.getLogger("headwater.web")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Sending:
    """An ASGI ``send`` that knows whether its response has begun.

    Attributes:
        direct: the ``send`` below, for a stream that has begun: it is called for each write.
    """

    __slots__ = ("begun", "direct")

    def __init__(self, send: Send) -> None:
        self.direct = send
        self.begun = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        self.begun = True
        await self.direct(message)


# The ASGI extension under which our server protocol offers the connection's transport.
TRANSPORT = "headwater.transport"


@dataclass(frozen=True, slots=True)
class SSE:
    """How a route streams.

    Attributes:
        kind: ``"only"`` streams, and answers 406 to a client that does not accept it; ``"dual"``
            streams for an explicit ``Accept: text/event-stream`` and else answers as a normal
            route, whose handler is given None as its stream; ``"manual"`` leaves it to the handler.
        heartbeat: seconds of silence after which a comment is sent, None for none, ``"default"``
            for the router's.
        serializer: object to str, for an event's ``data``.
        max_pending: bytes that may wait for a slow client before it is disconnected.
        linger: seconds that a handler may run on after its client has gone, or the server has ended
            its stream. It is cancelled then, so that a loop that ignores what ``send`` returns does
            not run for ever.
        farewell: is sent when the server ends the stream, in place of ``retry:`` or an ``error``
            event: for clients of a protocol that takes the end of a body for the end of an answer.
            A stream that cannot be opened just now is then answered 503.
    """

    kind: Literal["only", "dual", "manual"] = "only"
    heartbeat: float | Literal["default"] | None = "default"
    serializer: Callable[[Any], str] = field(default=to_json, repr=False)
    max_pending: int = MAX_PENDING
    linger: float = 30.0
    farewell: Event | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("only", "dual", "manual"):
            raise DeclarationError(f"SSE(kind={self.kind!r}): write 'only', 'dual' or 'manual'")
        beat = self.heartbeat
        if beat is not None and beat != "default":
            check_seconds(f"SSE(heartbeat={beat!r})", beat, ", or None for no heartbeat")
        if not callable(self.serializer):
            raise DeclarationError(
                f"SSE(serializer={self.serializer!r}): write a function that makes a str of an "
                "object"
            )
        check_count(f"SSE(max_pending={self.max_pending!r})", self.max_pending, 1, ", in bytes")
        check_seconds(f"SSE(linger={self.linger!r})", self.linger, zero=True)
        if self.farewell is not None:
            check_kind(f"SSE(farewell={self.farewell!r})", self.farewell, Event, "an Event(...)")


def last_event_id(scope: Mapping[str, Any]) -> str | None:
    """The position that a client resumes from: the header, else ``?lastEventId=``.

    The header's bytes are UTF-8 (WHATWG HTML, 9.2.4: "encoded as UTF-8"), unlike other headers.
    An empty value means none.
    """
    for name, value in scope["headers"]:
        if name.lower() == b"last-event-id":
            return decode_last_event_id(value) or None
    text = scope.get("query_string", b"")
    if b"lastEventId" not in text and b"%" not in text:
        return None
    query = parse_qs(text.decode("latin-1"), keep_blank_values=False)
    found = query.get("lastEventId")
    return found[-1] if found else None


class Connection:
    """One ASGI request whose response is a stream.

    Arguments:
        held: nothing is written before ``hold``. A server that offers its connection then gets the
            head and the first bytes in one write, without another task.

    Attributes:
        sender: where its bytes go until the connection is handed over, if it ever is.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, held: bool = False) -> None:
        offer = (scope.get("extensions") or {}).get(TRANSPORT)
        held = held and offer is not None
        self.sender = AsgiSender(
            send,
            on_done=self._done,
            connection=offer,
            held=held,
        )
        self._receive = receive
        self._incoming: Incoming | None = None
        self._held = held
        self._offer: Any = offer
        self._task: asyncio.Task[Any] | None = None
        self._stream: Stream | None = None
        self._interrupted = False
        self._over = False

    @property
    def incoming(self) -> Incoming:
        """What the client sends."""
        if self._incoming is None:
            self._incoming = Incoming(self._receive)
        return self._incoming

    async def hold(self, stream: Stream, *, stays: bool = False) -> None:
        """Stay until the response has ended, the client has gone or the stream took it over.

        Arguments:
            stays: the request has something to do after the stream, so it is not taken over.
        """
        task = asyncio.current_task()
        assert task is not None
        self._stream = stream
        try:
            if self._offer is None:
                _say_once()
            elif not self._over:
                if not stays:
                    self.sender.on_flushed = self._take_over
                if self._held:
                    self._offer.join()
                    await self.sender.flush()
                elif not stays:
                    self._take_over()
            if not self._over and self._stream is not None:
                self._task = task
                self.incoming.drop()
                await self.incoming.until_gone()
        except asyncio.CancelledError:
            if not self._interrupted or task.uncancel() > 0:
                self._leave()
                raise
        self._leave()

    async def watch(self, stream: Stream) -> None:
        """Wait for the client to leave, beside a handler that is still running."""
        await self.incoming.until_gone()
        self._over = True
        stream.lost()

    def _leave(self) -> None:
        self._task = None
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.lost()
            stream.release()

    def _take_over(self) -> None:
        """Let the stream write to the transport itself, if its bytes came through unchanged."""
        old, stream, offer = self.sender, self._stream, self._offer
        if stream is None or stream.ended or old.closed or old.pending or not old.passed:
            return
        if not offer.ready(old.passed, old.last):
            return
        self._stream = self._offer = None
        old.retire()
        stream.sender = DirectSender(offer.take(), stream)
        # The request ends here; what it kept alive is freed.
        self._interrupt()

    def _done(self) -> None:
        # The response has ended. Some servers let `receive` wait on; ours waits no longer.
        self._over = True
        self._interrupt()

    def _interrupt(self) -> None:
        if self._task is not None and not self._interrupted:
            self._interrupted = True
            self._task.cancel()


@cache
def _say_once() -> None:
    logger.info(
        "streams are sent through ASGI (the server offers no connection to take over); `uvicorn "
        "--http headwater.web.uvicorn:Protocol` makes them lighter"
    )


def made_stream(
    connection: Connection, hub: Hub, options: SSE, scope: Scope, heartbeat: float | None
) -> EventStream:
    """The stream of a request, for its handler. ``heartbeat`` is the router's."""
    stream = EventStream(
        connection.sender,
        hub.streams,
        heartbeat=heartbeat if options.heartbeat == "default" else options.heartbeat,
        serializer=options.serializer,
        last_event_id=last_event_id(scope),
        max_pending=options.max_pending,
        farewell=options.farewell,
    )
    if b"heartbeat=event" in scope.get("query_string", b"").split(b"&"):
        # Heartbeats are to be events, which a page can see.
        stream.pulse = heartbeat_event(None, stream.heartbeat)
    return stream


async def run_handler(
    connection: Connection,
    stream: EventStream,
    handler: Callable[[], Awaitable[Any]],
    options: SSE,
) -> Any:
    """Run a handler that may stream. What it raises before anything was sent is raised.

    After that an error is logged, an ``error`` event is sent and the stream ends. Returns what the
    handler returned. Unless it has kept the stream alive, the stream is closed if it was used.
    """
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None
    overdue = False
    running = True

    def expire() -> None:
        nonlocal overdue
        overdue = True
        task.cancel()

    def on_end() -> None:
        nonlocal timer
        # A handler that closes its stream itself may have something else to do.
        if running and (stream.sender.closed or asyncio.current_task() is not task):
            timer = loop.call_later(options.linger, expire)

    stream.on_commit = connection.incoming.begin
    stream.on_close(on_end)
    watcher = loop.create_task(connection.watch(stream))
    result: Any = None
    try:
        result = await handler()
    except asyncio.CancelledError:
        if not overdue or task.uncancel() > 0:
            stream.abort("the server cancelled it")
            stream.release()
            raise
        logger.warning(
            "a handler ran on for %g s after its stream had ended and was cancelled", options.linger
        )
    except Exception as error:
        if not stream.committed:
            stream.release()
            raise
        status = getattr(error, "status_code", None)
        if isinstance(status, int):
            stream.fail(status, str(getattr(error, "detail", "")))
        else:
            logger.exception("a handler failed after its stream had begun")
            stream.fail(500)
    finally:
        running = False
        stream.on_commit = None
        stream.forget(on_end)
        if timer is not None:
            timer.cancel()
        watcher.cancel()
    if stream.committed and not stream.kept_alive:
        stream.close()
    return result


async def send_head(send: Send, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Answer HEAD for a stream: with the headers that it would have, and these beside them."""
    head = list(stream_headers(headers))
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": b""})


async def serve_events(
    hub: Hub,
    handler: Callable[[EventStream], Awaitable[Any]],
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    options: SSE | None = None,
    heartbeat: float | None = 30.0,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Answer an ASGI request with a stream. An error before the first event is raised."""
    options = options or SSE()
    if scope["method"] == "HEAD":
        await send_head(send, headers)
        return
    connection = Connection(scope, receive, send)
    stream = made_stream(connection, hub, options, scope, heartbeat)
    stream.headers = headers
    await run_handler(connection, stream, lambda: handler(stream), options)
    if not stream.committed:
        stream.close()
    await connection.hold(stream)
