"""One open ``text/event-stream`` response: the common part of every kind of stream."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Protocol

from headwater.delivery._heartbeat import Token
from headwater.delivery._open_streams import OpenStreams
from headwater.delivery._sender import Headers, Sender
from headwater.protocol import HEARTBEAT, Comment, encode, frame

logger = logging.getLogger("headwater.delivery")

# no-transform keeps proxies from compressing, which would hold events back until a block is full;
# X-Accel-Buffering is nginx's own switch for the same reason.
EVENT_STREAM_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
# Clients of interrupted streams reconnect after a random time between these milliseconds.
_INTERRUPTED = (2000, 5000)
_OWN = frozenset(name for name, _ in EVENT_STREAM_HEADERS) | {b"content-length"}

Closer = Callable[[], Awaitable[object] | object]


def stream_headers(further: Headers) -> Headers:
    """The headers of a stream: its own, and of further ones, in lower case, those beside them."""
    return (*EVENT_STREAM_HEADERS, *(pair for pair in further if pair[0] not in _OWN))


class Right(Protocol):
    """The right of a stream to go on."""

    @property
    def caller(self) -> Hashable:
        """On whose behalf."""
        ...

    def release(self, stream: Stream) -> None:
        """The stream has ended."""
        ...


class Stream:
    """One open response.

    Attributes:
        sender: the sender of the connection.
        written_at: the loop's time of the last write to only this stream.
        committed: whether the response's head was sent. From then on errors are events.
        ended: whether the response is over, or the peer has gone.
        pulse: the bytes of a heartbeat: a comment, or an event if the client asked for events.
        number: identifies the stream once it is committed. It is the time in microseconds, or a
            little more if streams were opened at the same time.
        lease: the right to go on. Its ``release`` is called when the stream ends.
        farewell: bytes for clients of another protocol. They are sent when the server ends the
            stream, in place of ``retry:`` or an ``error`` event.
    """

    __slots__ = (
        "__weakref__", "_beat", "_closers", "_streams", "committed", "ended", "heartbeat", "lease",
        "number", "pulse", "sender", "written_at",
    )  # fmt: skip

    farewell = b""

    def __init__(
        self, sender: Sender, streams: OpenStreams, *, heartbeat: float | None = None
    ) -> None:
        self.sender = sender
        self.heartbeat = heartbeat
        self.written_at = 0.0
        self.number = 0
        self.committed = False
        self.ended = False
        self.pulse = HEARTBEAT
        self.lease: Right | None = None
        self._streams = streams
        self._beat: Token | None = None
        self._closers: tuple[Closer, ...] = ()
        sender.stream = self

    @property
    def caller(self) -> Hashable:
        """On whose behalf it is; None where nobody said."""
        return None if self.lease is None else self.lease.caller

    @property
    def last_written(self) -> float:
        """The loop's time of the last write."""
        return self.written_at

    def commit(self, status: int = 200, headers: Headers = ()) -> None:
        """Send the response's head, with further headers in lower case. Idempotent."""
        if self.committed or self.ended:
            return
        self.committed = True
        self.sender.start(status, stream_headers(headers))
        self.written_at = asyncio.get_running_loop().time()
        self._streams.add(self)
        self._beat = self._streams.heartbeats.add(self)

    def write(self, data: bytes) -> None:
        """Send framed bytes. Once the stream has ended they are dropped."""
        self.sender.write(data)
        self.written_at = asyncio.get_running_loop().time()
        self._streams.counters.writes += 1
        if self.sender.full:
            self.busy()

    def busy(self) -> None:
        """The sender has no room: its client takes less than it is sent."""
        self._streams.unread.add(self)

    def idle(self) -> None:
        """The sender has room again."""
        unread = self._streams.unread
        if self in unread.waiting:
            unread.discard(self)

    def beat(self) -> None:
        """Send a heartbeat, unless bytes wait to be sent."""
        if not self.sender.pending:
            self.write(self.pulse)

    def close(self) -> None:
        """End the response after all that was written. Idempotent."""
        if not self.ended:
            self.commit()
            self.sender.finish()
            self._end()

    def dismiss(self, retry: int, reason: str | None = None) -> None:
        """Send a reconnection time in milliseconds and a reason, and end the response."""
        if not self.ended:
            self.commit()
            back = b"retry: %d\n" % retry + (encode(Comment(reason)) if reason else b"\n")
            self.write(self.farewell or back)
            self.close()

    def interrupt(self, reason: str) -> None:
        """End the response until somebody mends what the reason says; its client comes back."""
        self.dismiss(random.randint(*_INTERRUPTED), reason)

    def fail(self, status: int, detail: str | None = None, *, retry: int | None = None) -> None:
        """Send an ``error`` event, which has no id, and end the response.

        A response that has not begun has this status too, unless its client is to come back after
        ``retry`` milliseconds.
        """
        if not self.ended:
            self.commit(status if retry is None else 200)
            if self.farewell:
                self.write(self.farewell)
                self.close()
                return
            if retry is not None:
                self.write(b"retry: %d\n\n" % retry)
            data = {"status": status, "detail": detail} if detail else {"status": status}
            self.write(frame("error", None, json.dumps(data, separators=(",", ":")).encode()))
            self.close()

    def abort(self, why: str) -> None:
        """Drop the connection at once."""
        if not self.sender.closed:
            logger.info("a stream was dropped: %s", why)
        self._end()
        self.sender.abort()

    def lost(self) -> None:
        """The peer has gone."""
        if not self.sender.closed:
            self.sender.gone()
        self._end()

    def release(self) -> None:
        """The connection is closed. Whatever runs the response calls this last."""
        self._end()
        self._streams.discard(self)

    def on_close(self, call: Closer) -> None:
        """Call ``call`` once when the stream ends for whatever reason; at once if it has ended.

        It may be a coroutine function. An error in it is logged, and the other callbacks run.
        """
        if self.ended:
            self._run(call)
        else:
            self._closers += (call,)

    def forget(self, call: Closer) -> None:
        """Undo ``on_close``, unless it was called already."""
        self._closers = tuple(each for each in self._closers if each is not call)

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        if self._beat is not None:
            self._streams.heartbeats.remove(self._beat)
            self._beat = None
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release(self)
        closers, self._closers = self._closers, ()
        for call in closers:
            self._run(call)

    def _run(self, call: Closer) -> None:
        try:
            result: Any = call()
        except Exception:
            logger.exception("an on_close callback failed")
            return
        if inspect.isawaitable(result):
            self._streams.run(result, "an on_close callback")
