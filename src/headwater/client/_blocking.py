"""The client without asyncio: it reads the connection in the thread that asks for a value."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Coroutine, Generator, Iterator
from contextlib import suppress
from functools import partial
from types import coroutine
from typing import Any, Generic, Self, TypeVar

from headwater.client._connections import Followed, Shell, run
from headwater.client._feed_session import FeedSession
from headwater.client._run import RunEvent, RunSession
from headwater.client._session import Session
from headwater.client._transport import LostError, Wire, cookie_jar, httpx, new_client
from headwater.client._values import FeedValue, T
from headwater.errors import UsageError
from headwater.protocol import Message

V = TypeVar("V")


class Following(Followed[V]):
    """An iterator that reconnects by itself; see ``Stream`` and ``Feed``.

    Several threads may iterate, each value goes to one of them.
    """

    def __init__(self, session: Session[V], client: httpx.Client | None = None) -> None:
        super().__init__(session, client, httpx.Client)
        for name in ("token", "on_open", "on_position"):
            if inspect.iscoroutinefunction(getattr(session, name)):
                raise UsageError(
                    f"{name}= is a coroutine function, which needs asyncio: give a plain function "
                    "here, or use headwater.client"
                )
        self._turn = threading.Lock()
        self._ended = False
        # Reads connections; it stops where there may be something to take.
        self._reading: Coroutine[Any, Any, None] | None = None
        self._owned: httpx.Client | None = None
        if client is None:
            # Each request has a connection of its own, which `close` can then cut at any time.
            client = self._owned = new_client(
                httpx.Client,
                cookies=cookie_jar(session.url, session.cookies),
                limits=httpx.Limits(max_keepalive_connections=0),
            )
        self._reader: _Reader = _Reader(client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                # A block that ends without an error has handled the last value.
                self._keep()
        finally:
            self.close()

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()

    def close(self) -> None:
        """Close the connection, from any thread. A thread that waits for a value stops."""
        self._reader.stop()
        self._release()

    def _release(self) -> None:
        # A thread that has the turn does it when it gives the turn back.
        if self._turn.acquire(blocking=False):
            try:
                self._hang_up()
                if self._owned is not None:
                    self._owned.close()
            finally:
                self._turn.release()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> V:
        try:
            with self._turn:
                return self._value()
        finally:
            if self._reader.closed.is_set():
                self._release()

    def _value(self) -> V:
        closed = self._reader.closed
        while not (closed.is_set() or self._ended):
            self._keep()
            try:
                value = self._session.take()
                if value is not None:
                    return value
                if self._reading is None:
                    self._reading = run(self._session, self._reader)
                self._reading.send(None)
            except StopIteration:
                self._ended = True
            except BaseException as error:
                # An interrupt breaks the connection, and the next call goes on where it was. An
                # error is the end.
                self._ended = isinstance(error, Exception)
                self._hang_up()
                if not closed.is_set():
                    raise
        raise StopIteration

    def _hang_up(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.close()

    def _keep(self) -> None:
        position = self._session.handled()
        if position is not None and self._session.on_position is not None:
            self._session.on_position(position)


class Stream(Following[Message]):
    """An iterator over the messages of one stream, which reconnects by itself.

    Ends and raises as ``headwater.client.AsyncStream`` does. Several threads may iterate.
    ``close()`` closes the connection and ends the iteration, from any thread.

    Attributes:
        last_event_id: the position of the last value that was returned; empty before the first.
        response: the latest response, for its status and headers; None before the first.
    """


class Feed(Following[FeedValue[T]], Generic[T]):
    """An iterator over the values of one feed: Snapshot, Item, Removed, Reset.

    Ends and raises as ``headwater.client.AsyncFeed`` does; closes as ``Stream`` does, and has its
    attributes.
    """

    _session: FeedSession

    @property
    def polling(self) -> bool:
        """Whether it polls the REST half at the moment, because no stream comes through."""
        return self._session.polling


class RunStream(Following[RunEvent]):
    """An iterator over the events of one run, which reconnects by itself.

    Ends and raises as ``headwater.client.AsyncRunStream`` does; closes as ``Stream`` does, and has
    its attributes.
    """

    _session: RunSession

    @property
    def state(self) -> str | None:
        """The last state that the server sent: ``queued``, ``running``, or how it ended."""
        return self._session.state


class _Reader(Shell):
    """Reads the connections. Its coroutines block, and suspend only in ``_pause``.

    Attributes:
        closed: set once the caller wants no more.
    """

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.closed = threading.Event()
        self._wire = Wire()
        self._chunks: Iterator[bytes] | None = None

    def stop(self) -> None:
        """End the request and every wait, from any thread."""
        self.closed.set()
        self._wire.cut()

    async def settled(self, result: Any) -> Any:
        return result

    async def send(self, request: httpx.Request, auth: Any) -> httpx.Response:
        return self._wire.response(
            partial(self.client.send, request, stream=True, auth=auth, follow_redirects=False)
        )

    def limit(self, seconds: float | None) -> _Limit:
        self._wire = Wire()
        if self.closed.is_set():
            self._wire.cut()
        return _Limit(seconds, self._wire)

    def extensions(self) -> dict[str, Any]:
        return {"trace": self._wire.trace}

    async def chunk(self, response: httpx.Response) -> bytes | None:
        if self._chunks is None:
            self._wire.found(response.extensions.get("network_stream"))
            self._chunks = response.iter_bytes()
        chunk = next(self._chunks, None)
        if chunk is None and self._wire.was_cut:
            # Without a length, the end of the connection is that of the body.
            raise LostError("the connection was cut")
        return chunk

    async def close(self, response: httpx.Response) -> None:
        self._chunks = None
        response.close()

    async def hand_over(self) -> None:
        await _pause()

    async def sleep(self, seconds: float) -> None:
        self.closed.wait(seconds)
        await _pause()


@coroutine
def _pause() -> Generator[None, None, None]:
    """Give control back to the caller of ``send``."""
    yield


class _Limit:
    """Cuts a request after so many seconds, and then raises TimeoutError, as asyncio's does.

    The time-outs of a socket are for one read each; a head that comes byte by byte passes them all.
    """

    def __init__(self, seconds: float | None, wire: Wire) -> None:
        self._expired = False
        self._wire = wire
        self._timer = None if seconds is None else threading.Timer(seconds, self._expire)

    async def __aenter__(self) -> Self:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.reschedule(None)
        if self._expired and kind is LostError:
            raise TimeoutError

    def reschedule(self, when: None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def expired(self) -> bool:
        return self._expired

    def _expire(self) -> None:
        self._expired = True
        self._wire.cut()
