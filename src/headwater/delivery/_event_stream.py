"""``EventStream``: the stream on which a handler with ``sse=`` sends."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import inspect
import logging
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any

from headwater.delivery._open_streams import OpenStreams
from headwater.delivery._sender import Headers, Sender
from headwater.delivery._stream import Stream
from headwater.errors import DeclarationError, UsageError
from headwater.protocol import HEARTBEAT, Comment, Event, encode, to_json
from headwater.protocol._encoder import encode_data

logger = logging.getLogger("headwater.delivery")

# Bytes that may wait for one slow client. Common kernels buffer a quarter of it at first, so only a
# client that cannot keep up reaches it.
MAX_PENDING = 256 * 1024
# An awaited send returns at once while at most so many bytes wait.
_SEND_AHEAD = 64 * 1024
# How many ids of replayed events are kept, to leave the same events out of those held meanwhile.
_MAX_REPLAYED_IDS = 65_536

_replaying: contextvars.ContextVar[object] = contextvars.ContextVar("headwater_replaying")

Serializer = Callable[[Any], str]


class _Sent:
    """The result of ``send``. To await it means to wait while the client is slow."""

    __slots__ = ("_stream",)

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream

    def __await__(self) -> Generator[Any, None, bool]:
        return self._stream._wait_for_room().__await__()


class EventStream(Stream):
    """One open stream, on which a handler sends events.

    Attributes:
        last_event_id: the position that the client resumes from: the ``Last-Event-ID`` header,
            else ``?lastEventId=``; None on a first visit.
        is_connected: False once the stream was closed or the client has gone.
        headers: further headers of the response, with lower-case names; they may be added to until
            it is committed.
        on_commit: is called when the response's head is sent.
        headers_of: an object whose ``raw_headers`` are added to the head when it is sent.
    """

    __slots__ = (
        "_held", "_held_bytes", "_kept", "_loop", "_max_pending", "_replayed", "_serializer",
        "_unyielded", "_waiters", "farewell", "headers", "headers_of", "last_event_id", "on_commit",
    )  # fmt: skip

    def __init__(
        self,
        sender: Sender,
        streams: OpenStreams,
        *,
        heartbeat: float | None = None,
        serializer: Serializer = to_json,
        last_event_id: str | None = None,
        max_pending: int = MAX_PENDING,
        farewell: Event | None = None,
    ) -> None:
        super().__init__(sender, streams, heartbeat=heartbeat)
        self.farewell = b"" if farewell is None else encode(farewell, serializer)
        self.headers: Sequence[tuple[bytes, bytes]] = ()
        self.last_event_id = last_event_id
        self._serializer = serializer
        self._max_pending = max_pending
        self._kept = False
        self._unyielded = 0
        self._loop = asyncio.get_running_loop()
        self._waiters: list[asyncio.Future[None]] = []
        self._held: list[tuple[str | None, bytes]] | None = None
        self._held_bytes = 0
        self._replayed: dict[str, None] = {}
        self.on_commit: Callable[[], None] | None = None
        self.headers_of: Any = None

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> Any:
        """Refuse to be a value of a request, which frameworks ask pydantic about."""
        raise DeclarationError(
            "a parameter of type EventStream is for the handler of a route with sse=, on a "
            "LiveRouter: write @live.get(path, sse=True)"
        )

    @property
    def is_connected(self) -> bool:
        return not self.ended

    @property
    def kept_alive(self) -> bool:
        """Whether the stream stays open after the handler has returned."""
        return self._kept and not self.ended

    def send(self, value: object) -> Awaitable[bool]:
        """Send one event, or each of an iterable's.

        Arguments:
            value: a str or bytes (UTF-8) or mapping, pydantic model or dataclass (sent as
                ``data``), an ``Event`` or ``Comment``, or a sync or async iterable of these. To
                send a list as one event, wrap it: ``Event(data=[1, 2])``.

        Awaiting the result waits while the client is slow, and gives False, never an error, once
        the client has gone. Without ``await`` the event is sent too, but a client for which more
        than ``max_pending`` bytes wait is disconnected. Raises FramingError, EncodingError or
        UsageError for a value that cannot be sent; nothing of it is sent then.
        """
        if _is_single(value):
            event_id, data = self._encode(value)
            self._put(event_id, data, replaying=_replaying.get(None) is self)
            return _Sent(self)
        if isinstance(value, (AsyncIterable, Iterable)):
            task = asyncio.ensure_future(self._send_each(value))
            task.add_done_callback(_log_error)
            return task
        raise UsageError(
            f"send({value!r}): it takes a str, bytes, mapping, Event, Comment, pydantic model, "
            "dataclass, or an iterable of these"
        )

    def push(self, value: object) -> bool:
        """Send one event without waiting, also from another thread.

        Returns False once the client has gone. A client so slow that more than ``max_pending``
        bytes wait for it is disconnected, so that it resumes from its last id: no event in between
        is left out.
        """
        if not _is_single(value):
            raise UsageError(f"push({value!r}): it takes one event; send() takes iterables")
        event_id, data = self._encode(value)
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if not here:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._put, event_id, data)
            return not self.ended
        return self._put(event_id, data)

    def commit(self, status: int = 200, headers: Headers = ()) -> None:
        if not self.committed and not self.ended:
            late = () if self.headers_of is None else self.headers_of.raw_headers
            super().commit(status, (*self.headers, *late, *headers))
            self.headers, self.headers_of = (), None
            if self.pulse != HEARTBEAT:
                # A client that asked for such heartbeats knows by the first that they come.
                self.write(self.pulse)
            if self.on_commit is not None:
                self.on_commit()

    def send_headers(self, status: int = 200) -> None:
        """Send the response's head now; otherwise the first send does it. Idempotent."""
        self.commit(status)

    def keep_alive(self) -> None:
        """Stay open after the handler has returned.

        With nothing sent yet this opens the stream at once, so that a browser's ``onopen`` fires.
        """
        self._kept = True
        if not self.committed and not self.ended:
            self.commit()
            self.write(b":\n\n")

    async def replay(self, missed_since: Callable[[str], Any]) -> None:
        """Send what a returning client has missed; do nothing for a new one.

        Arguments:
            missed_since: called with ``last_event_id``. It returns the missed events as an
                iterable or async iterable, or an awaitable of one, or sends them itself and
                returns None.

        Events that are pushed or sent elsewhere meanwhile are held and sent afterwards, without
        those whose id was replayed. So subscribe first, then replay: there is no gap.
        """
        if self.last_event_id is None or self.ended:
            return
        if self._held is not None:
            raise UsageError(
                "replay() is already running on this stream: await it before you call it again"
            )
        self._held = []
        token = _replaying.set(self)
        try:
            missed = missed_since(self.last_event_id)
            if inspect.isawaitable(missed):
                missed = await missed
            if missed is not None:
                await self._send_each(missed)
        finally:
            _replaying.reset(token)
            held, self._held = self._held, None
            replayed, self._replayed = self._replayed, {}
            self._held_bytes = 0
            for event_id, data in held:
                if event_id is None or event_id not in replayed:
                    self._put(event_id, data)

    async def _send_each(self, values: Any) -> bool:
        if _is_single(values):
            return await self.send(values)
        if isinstance(values, AsyncIterable):
            # Closing it when the client leaves lets a generator's `finally` run now.
            iterator = values.__aiter__()
            try:
                async for value in iterator:
                    if not await self.send(value):
                        return False
            finally:
                close = getattr(iterator, "aclose", None)
                if close is not None:
                    await close()
        else:
            for value in values:
                if not await self.send(value):
                    return False
        return not self.ended

    def _encode(self, value: object) -> tuple[str | None, bytes]:
        if isinstance(value, (Event, Comment)):
            event_id = value.id if isinstance(value, Event) else None
            return event_id, encode(value, self._serializer)
        return None, encode_data(value, self._serializer)

    def _put(self, event_id: str | None, data: bytes, *, replaying: bool = False) -> bool:
        if self.ended:
            return False
        if self._held is not None:
            if not replaying:
                if self._held_bytes > self._max_pending:
                    self._overrun()
                    return False
                self._held_bytes += len(data)
                self._held.append((event_id, data))
                return True
            if event_id is not None:
                self._replayed[event_id] = None
                if len(self._replayed) > _MAX_REPLAYED_IDS:
                    del self._replayed[next(iter(self._replayed))]
        if self.sender.pending > self._max_pending:
            self._overrun()
            return False
        self.commit()
        self._streams.counters.frames += 1
        self.write(data)
        self._unyielded += len(data)
        return True

    def _overrun(self) -> None:
        self._streams.counters.overrun += 1
        self.abort(f"more than {self._max_pending} bytes wait for a slow client")

    async def _wait_for_room(self) -> bool:
        if self.ended:
            # A handler that loops without a look at the result must not block the event loop.
            await asyncio.sleep(0)
        elif self._unyielded > _SEND_AHEAD:
            # Neither must one whose client takes everything at once.
            self._unyielded = 0
            await asyncio.sleep(0)
        if not self.ended and self.sender.pending > _SEND_AHEAD:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter
        return not self.ended

    def idle(self) -> None:
        super().idle()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _end(self) -> None:
        super()._end()
        self.idle()


def _is_single(value: object) -> bool:
    if isinstance(value, (str, bytes, bytearray, Mapping, Event, Comment)):
        return True
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return True
    return hasattr(type(value), "model_dump_json")


def _log_error(task: asyncio.Future[bool]) -> None:
    # A caller that awaits the task gets its error too.
    if not task.cancelled() and task.exception() is not None:
        logger.debug("sending an iterable failed", exc_info=task.exception())
