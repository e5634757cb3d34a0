"""The client without asyncio: it reads the connection in the thread that asks for a value."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from headwater.client._feed_session import FeedSession
from headwater.client._run import RunEvent, RunSession
from headwater.client._session import MAX_ERROR_BODY, Request, Session
from headwater.client._transport import (
    CONNECT_FAULTS,
    LostError,
    Wire,
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

__all__ = ["Feed", "Following", "RunStream", "Stream"]

V = TypeVar("V")


class Following(Generic[V]):
    """An iterator that reconnects by itself; see ``Stream`` and ``Feed``.

    Several threads may iterate, each value goes to one of them.
    """

    def __init__(
        self,
        session: Session[V],
        client: httpx.Client | None,
        cookies: Mapping[str, str] | None,
        idle_timeout: float | None,
    ) -> None:
        # First what `__del__` needs, should one of the checks raise.
        self._closed = threading.Event()
        self._turn = threading.Lock()
        self._owned: httpx.Client | None = None
        self._line: Iterator[Wait | Stop | None] | None = None
        self._wire: Wire | None = None
        if client is not None and cookies is not None:
            raise UsageError("cookies: give them to your own client")
        for name in ("token", "on_open", "on_position"):
            if inspect.iscoroutinefunction(getattr(session, name)):
                raise UsageError(
                    f"{name}= is a coroutine function, which needs asyncio: give a plain function "
                    "here, or use headwater.client"
                )
        self._session = session
        self._idle = idle_timeout
        self._timeout = timeouts(idle_timeout)
        self._response: httpx.Response | None = None
        self._ended = False
        if client is None:
            # Each request has a connection of its own, which `close` can then cut at any time.
            client = self._owned = httpx.Client(
                cookies=cookie_jar(session.url, cookies),
                limits=httpx.Limits(max_keepalive_connections=0),
            )
        self._client = client

    @property
    def last_event_id(self) -> str:
        """The position of what was handed over last; empty when there was none."""
        return self._session.last_event_id

    @property
    def response(self) -> httpx.Response | None:
        """The newest answer of the server, for its status and headers; None before the first."""
        return self._response

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        self._closed.set()
        wire = self._wire
        if wire is not None:
            wire.cut()
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
            if self._closed.is_set():
                self._release()

    def _value(self) -> V:
        while not (self._closed.is_set() or self._ended):
            self._keep()
            try:
                value = self._session.take()
                if value is not None:
                    return value
                self._advance()
            except BaseException as error:
                # An interrupt breaks the connection, and the next call goes on where it was. An
                # error is the end.
                self._ended = isinstance(error, Exception)
                self._hang_up()
                if self._closed.is_set():
                    break
                raise
        raise StopIteration

    def _advance(self) -> None:
        """One step: connect, read one piece, or wait."""
        if self._line is None:
            self._line = self._connection()
        decision = next(self._line)
        if decision is None:
            return
        self._hang_up()
        if isinstance(decision, Wait):
            self._closed.wait(decision.seconds)
            return
        self._ended = True
        if decision.error is not None:
            raise decision.error

    def _hang_up(self) -> None:
        line, self._line, self._wire = self._line, None, None
        if line is not None:
            line.close()  # type: ignore[attr-defined]

    def _keep(self) -> None:
        position = self._session.handled()
        if position is not None and self._session.on_position is not None:
            self._session.on_position(position)

    def _connection(self) -> Iterator[Wait | Stop | None]:
        """One connection: None after each piece, and at its end what to do then."""
        request = self._session.request(self._token(), now=time.monotonic())
        self._wire = wire = Wire()
        if self._closed.is_set():
            return
        yield from self._poll(request, wire) if request.polls else self._stream(request, wire)

    def _token(self) -> str | None:
        token: Any = self._session.token
        given: str | None = token() if callable(token) else token
        return given

    def _stream(self, request: Request, wire: Wire) -> Iterator[Wait | Stop | None]:
        session, early = self._session, request.first_byte_within
        limit = _Limit(least(early, self._idle), wire)
        try:
            with limit, self._answer(request, wire) as response:
                status = response.status_code
                if not session.opened(status, response.headers):
                    body = _body(response, MAX_ERROR_BODY)
                    yield session.refused(status, response.headers, body, now=time.time())
                    return
                if encoding := unknown_encoding(response, self._client):
                    yield Stop(session.unreadable(status, encoding))
                    return
                if early is None:
                    limit.cancel()
                if session.on_open is not None:
                    session.on_open(response)
                chunks = response.iter_bytes()
                while (chunk := _next(chunks)) is not None:
                    limit.cancel()
                    session.feed(chunk)
                    yield None
                    failure = session.check()
                    if failure is not None:
                        yield Stop(failure)
        except LostError as error:
            yield session.late() if limit.expired else session.lost(str(error))
            return
        yield session.late() if limit.expired else session.ended(now=time.time())

    def _poll(self, request: Request, wire: Wire) -> Iterator[Wait | Stop | None]:
        session = self._session
        assert isinstance(session, FeedSession)
        limit = _Limit(self._idle, wire)
        try:
            with limit, self._answer(request, wire) as response:
                if encoding := unknown_encoding(response, self._client):
                    yield Stop(session.unreadable(response.status_code, encoding))
                    return
                body = _body(response, session.max_event_bytes)
        except LostError as error:
            why = "the answer did not come in time" if limit.expired else str(error)
            yield session.poll_lost(why)
            return
        yield session.polled(
            response.status_code, response.headers, body, now=time.monotonic(), wall=time.time()
        )

    @contextmanager
    def _answer(self, request: Request, wire: Wire) -> Iterator[httpx.Response]:
        """The answer after all redirects, with its body still to come. Raises LostError."""
        session, client = self._session, self._client
        followed = 0
        try:
            following: httpx.Request | None = client.build_request(
                request.method,
                request.url,
                headers=request.headers,
                content=request.content,
                timeout=self._timeout,
                extensions={"trace": wire.trace},
            )
            auth = session.auth if session.signs_in else httpx.USE_CLIENT_DEFAULT
            while following is not None:
                response = client.send(following, stream=True, auth=auth, follow_redirects=False)
                # Only the first host is given what signs in.
                auth = None
                following = response.next_request
                if following is not None:
                    response.close()
                    redirected(response, followed)
                    followed += 1
        except HeadwaterError:
            raise
        except CONNECT_FAULTS as error:
            raise LostError(cause_of(error)) from error
        self._response = response
        wire.found(response.extensions.get("network_stream"))
        try:
            yield response
        finally:
            response.close()


class Stream(Following[Message]):
    """An iterator over the messages of one stream, which reconnects by itself.

    Ends and raises as ``headwater.client.AsyncStream`` does. Several threads may iterate.
    ``close()`` closes the connection and ends the iteration, from any thread.

    Attributes:
        last_event_id: the position of what was handed over last; empty when there was none.
        response: the newest answer of the server, for its status and headers; None before it.
    """


class Feed(Following[FeedValue[T]], Generic[T]):
    """An iterator over the values of one feed: Snapshot, Item, Removed, Reset.

    Ends and raises as ``headwater.client.AsyncFeed`` does; closes as ``Stream`` does, and has its
    attributes.
    """

    _session: FeedSession

    @property
    def polling(self) -> bool:
        """Whether it asks the REST half just now, since no stream comes through."""
        return self._session.polling


class RunStream(Following[RunEvent]):
    """An iterator over the events of one run, which reconnects by itself.

    Ends and raises as ``headwater.client.AsyncRunStream`` does; closes as ``Stream`` does, and has
    its attributes.
    """

    _session: RunSession

    @property
    def state(self) -> str | None:
        """The state that the run said last: ``queued``, ``running``, or how it ended."""
        return self._session.state


class _Limit:
    """Cuts a request after so many seconds, unless it is cancelled before.

    The time-outs of a socket are for one read each; a head that comes byte by byte passes them all.
    """

    def __init__(self, seconds: float | None, wire: Wire) -> None:
        self.expired = False
        self._wire = wire
        self._timer = None if seconds is None else threading.Timer(seconds, self._expire)

    def __enter__(self) -> Self:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self.expired = True
        self._wire.cut()


def _next(chunks: Iterator[bytes]) -> bytes | None:
    try:
        return next(chunks, None)
    except httpx.RequestError as error:
        raise LostError(cause_of(error)) from error


def _body(response: httpx.Response, limit: int) -> bytes:
    """The body, cut at ``limit``. Raises LostError."""
    body = bytearray()
    chunks = response.iter_bytes()
    while len(body) < limit and (chunk := _next(chunks)) is not None:
        body += chunk
    return bytes(body[:limit])
