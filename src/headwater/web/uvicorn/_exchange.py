"""One request and its answer, as ASGI has them."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Hashable
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import quote

from headwater.web._addresses import network_of
from headwater.web._identity import subjects
from headwater.web.uvicorn._refusals import STATUS_LINES
from headwater.web.uvicorn._setup import Setup

logger = logging.getLogger("headwater.web")

# RFC 9110, 5.6.2 and 5.5: characters that the name, or the value, of a header may not have.
_BAD_NAME = re.compile(rb'[\x00-\x1f\x7f()<>@,;:\[\]={} \t\\"]')
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_SPECIAL = frozenset({b"content-encoding", b"content-length", b"transfer-encoding", b"connection"})
# Bytes of a body that are given to the transport at once. The next ones wait until it has room.
_PIECE = 64 * 1024
# Bytes of an answer that may wait in the transport.
_WAITING = 256 * 1024
# Bytes of a request's body that may wait for the application.
_BODY_WAITING = 64 * 1024

# Nearly all answers have the same headers, so the lines of some are kept.
_MOST_LINES = 256


@lru_cache(_MOST_LINES)
def _line(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """The name of a header, which has no case in HTTP/1.1, and its line."""
    if _BAD_NAME.search(name):
        raise RuntimeError("Invalid HTTP header name.")
    if _BAD_VALUE.search(value):
        raise RuntimeError("Invalid HTTP header value.")
    name = name.lower()
    return name, b"%b: %b\r\n" % (name, value)


class Connection(Protocol):
    """What the parts of a connection need of it.

    Attributes:
        room: None while the client takes bytes, else an event for when it takes them again.
        setup: what all connections of one server have in common.
    """

    transport: asyncio.Transport
    room: asyncio.Event | None
    setup: Setup

    def request(self, exchange: Exchange) -> None:
        """The head of a request is whole."""
        ...

    def abort(self) -> None:
        """Drop the connection at once."""
        ...

    def pause_reading(self) -> None:
        """Read no more for now, so that the client has to wait."""
        ...

    def resume_reading(self) -> None:
        """Read again, unless the client has sent too much ahead."""
        ...

    def end_writing(self) -> None:
        """Nothing is sent any more, but the client may go on with its request's body."""
        ...

    async def drain(self) -> None:
        """Wait until the transport has room, or the client is gone."""
        ...

    def answered(self) -> None:
        """The application's answer is complete. The next request waits until the kernel has it."""
        ...

    def release(self) -> asyncio.Transport:
        """Give the connection to another owner. Requests that were sent ahead are dropped."""
        ...


class Exchange:
    """One request and its answer.

    Arguments:
        expects_continue: the client waits for "100 Continue" before it sends the body.
        keep_alive: the connection may have another request after this one.

    Attributes:
        more_body: more of the request's body is to come.
        disconnected: the client is gone, or the connection has another owner.
        complete: the application has sent its whole answer.
        joins: the answer's head waits for the first bytes of its body, which follow at once.
        passed: the number of bytes of the answer's body so far.
        last: those that the application sent last.
        plain: no header says that the body is encoded, or how long it is.
        unsent: bytes that are kept until the transport has room.
    """

    __slots__ = (
        *("_head", "_left", "_connection", "_waiting", "_wake", "chunked", "complete"),
        *("disconnected", "expects_continue", "joins", "keep_alive", "last", "more_body"),
        *("passed", "plain", "scope", "started", "unsent", "__weakref__"),
    )

    def __init__(
        self,
        connection: Connection,
        scope: dict[str, Any],
        expects_continue: bool,
        keep_alive: bool,
    ) -> None:
        self.scope = scope
        self.expects_continue = expects_continue
        self.keep_alive = keep_alive
        self.more_body = True
        self.disconnected = False
        self.started = self.complete = False
        self.chunked: bool | None = None
        self.joins = False
        self.passed = 0
        self.last = b""
        self.plain = True
        self.unsent = 0
        self._connection = connection
        self._waiting = bytearray()
        self._wake = asyncio.Event()
        self._head = b""
        # Bytes of the answer's body that are to come; None if the connection's end ends it.
        self._left: int | None = 0

    async def run(self, app: Any) -> None:
        """Let the application answer."""
        try:
            found = await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            # The server cancels requests when it ends. An answer that is complete is not lost.
            if not self.complete and not self.disconnected:
                self._connection.abort()
            raise
        except Exception as error:
            logger.error("Exception in ASGI application\n", exc_info=error)
            await self._fail()
        else:
            if self.disconnected or (self.complete and found is None):
                return
            wrong = (
                f"ASGI callable should return None, but returned {found!r}."
                if found is not None
                else "ASGI callable returned without completing response."
            )
            logger.error(wrong)
            await self._fail()

    async def _fail(self) -> None:
        if self.started:
            self._connection.transport.close()
            return
        text = b"Internal Server Error"
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(text)),
            (b"connection", b"close"),
        ]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": text})

    @property
    def caller(self) -> Hashable:
        """On whose behalf: the subjects, or the client's network where there are none."""
        client = self.scope["client"]
        return subjects(self.scope) or network_of(client and client[0])

    # The request

    def add_body(self, data: bytes) -> None:
        """More of the request's body came."""
        self._waiting += data
        if len(self._waiting) > _BODY_WAITING:
            self._connection.pause_reading()
        self._wake.set()

    def end_body(self) -> None:
        """The request is whole."""
        self.more_body = False
        self._wake.set()
        if self.complete and not self.keep_alive:
            self._connection.transport.close()

    def lose(self) -> None:
        """Nothing more of the answer can be sent."""
        self.disconnected = True
        self._wake.set()

    async def receive(self) -> dict[str, Any]:
        """ASGI's ``receive``."""
        if self.expects_continue and not self._connection.transport.is_closing():
            self.expects_continue = False
            self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self.disconnected and not self.complete:
            self._connection.resume_reading()
            await self._wake.wait()
            self._wake.clear()
        if self.disconnected or self.complete:
            return {"type": "http.disconnect"}
        body, self._waiting = bytes(self._waiting), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    # The answer

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI's ``send``. It waits while the client takes no bytes."""
        kind = message["type"]
        if kind == "http.response.body":
            body = message.get("body", b"")
            self.last = body
            self.passed += len(body)
        if self._connection.room is not None:
            await self._connection.drain()
        if self.disconnected:
            return
        if not self.started:
            if kind != "http.response.start":
                raise RuntimeError(
                    f"Expected ASGI message 'http.response.start', but got '{kind}'."
                )
            headers = tuple((name, value) for name, value in message.get("headers", ()))
            self._start(message["status"], headers)
            return
        if self.complete:
            raise RuntimeError(
                f"Unexpected ASGI message '{kind}' sent, after response already completed."
            )
        if kind != "http.response.body":
            raise RuntimeError(f"Expected ASGI message 'http.response.body', but got '{kind}'.")
        more = message.get("more_body", False)
        await self._send_body(body, more)
        if not more and not self.disconnected:
            self._end()

    def _start(self, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        connection = self._connection
        self.expects_continue = False
        log = connection.setup.access_log
        if log is not None:
            self._log(log, status)
        bodiless = self.scope["method"] == "HEAD" or status in (204, 304)
        head = [STATUS_LINES[status]]
        closes = False
        for pair in (*connection.setup.default_headers, *headers):
            name, line = _line(*pair)
            head.append(line)
            if name not in _SPECIAL:
                continue
            value = pair[1]
            if name != b"connection":
                self.plain = False
            if name == b"content-length" and self.chunked is None:
                self._left, self.chunked = int(value), False
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                self._left, self.chunked = 0, True
            elif name == b"connection":
                closes |= b"close" in [token.strip().lower() for token in value.split(b",")]
        if self.more_body:
            # An answer ahead of the request's end. HAProxy 2.6 would send the next client's request
            # on this connection where the rest of this body is missing.
            self.keep_alive = False
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            head.append(b"connection: close\r\n")
        if self.chunked is None and not bodiless:
            if self.scope["http_version"] == "1.0":
                # RFC 9112, 6.1: a client of HTTP/1.0 knows no chunks.
                self._left = None
            else:
                self.chunked = True
                head.append(b"transfer-encoding: chunked\r\n")
        head.append(b"\r\n")
        self.started = True
        if self.joins and self.chunked and not bodiless:
            self._head = b"".join(head)
        else:
            connection.transport.write(b"".join(head))

    async def _send_body(self, body: bytes, more: bool) -> None:
        head, self._head = self._head, b""
        if self.scope["method"] == "HEAD":
            self._left = 0
        elif self._left is None:
            await self._write(b"", body, b"")
        elif not self.chunked:
            if len(body) > self._left:
                raise RuntimeError("Response content longer than Content-Length")
            self._left -= len(body)
            await self._write(b"", body, b"")
        else:
            before = b"%b%x\r\n" % (head, len(body)) if body else head
            after = b"\r\n" if body else b""
            await self._write(before, body, after if more else after + b"0\r\n\r\n")

    async def _write(self, before: bytes, body: bytes, after: bytes) -> None:
        transport = self._connection.transport
        if len(body) <= _PIECE:
            if before or body or after:
                transport.write(b"".join((before, body, after)))
            return
        # A long body is not copied, and is written as fast as the client takes it.
        transport.set_write_buffer_limits(high=_WAITING)
        if before:
            transport.write(before)
        view = memoryview(body)
        for start in range(0, len(body), _PIECE):
            if self._connection.room is not None:
                self.unsent = len(body) - start
                await self._connection.drain()
            if self.disconnected:
                return
            transport.write(view[start : start + _PIECE])
        self.unsent = 0
        if after:
            transport.write(after)

    def _end(self) -> None:
        if self._left:
            raise RuntimeError("Response content shorter than Content-Length")
        self.complete = True
        self._wake.set()
        if not self.keep_alive:
            # A socket that is closed with bytes unread is reset, and the answer may be lost.
            if self.more_body:
                self._connection.end_writing()
            else:
                self._connection.transport.close()
        self._connection.answered()

    def _log(self, log: logging.Logger, status: int) -> None:
        scope = self.scope
        path, query = quote(scope["path"]), scope["query_string"].decode("latin-1")
        client = scope["client"]
        # uvicorn's formatter reads these five.
        log.info(
            '%s - "%s %s HTTP/%s" %d',
            f"{client[0]}:{client[1]}" if client else "",
            scope["method"],
            f"{path}?{query}" if query else path,
            scope["http_version"],
            status,
        )
