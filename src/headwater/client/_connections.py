"""The connections of a followed stream, one after the other, for both clients.

``run`` is written once, as a coroutine over a ``Shell``. The client for asyncio awaits it in a
task. The shell of the other client blocks where asyncio would suspend, so that client runs the
coroutine by itself, one step for each value that it waits for.
"""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, Protocol, TypeVar

from headwater.client._address import checked_url
from headwater.client._feed_session import FeedSession
from headwater.client._session import MAX_ERROR_BODY, Request, Session
from headwater.client._transport import (
    CONNECT_FAULTS,
    MAX_REDIRECTS,
    LostError,
    cause_of,
    httpx,
    unknown_encoding,
)
from headwater.errors import HeadwaterError, PeerError, ResponseError, UsageError
from headwater.protocol import Stop, Wait

V = TypeVar("V")


class Limit(Protocol):
    """The part of ``asyncio.Timeout`` that is used here."""

    def reschedule(self, when: None, /) -> None:
        """Remove the limit."""

    def expired(self) -> bool:
        """Whether the block was ended because it took too long."""


class Shell(Protocol):
    """The network, the clock and the caller's functions, as asyncio or threads have them.

    Attributes:
        client: sends the requests.
        response: the latest response after all redirects; None before the first.
    """

    client: httpx.Client | httpx.AsyncClient
    response: httpx.Response | None = None

    async def settled(self, result: Any) -> Any:
        """The result of the caller's function. Awaits it if needed."""

    async def send(self, request: httpx.Request, auth: Any) -> httpx.Response:
        """The response, with its body still to come. Raises what httpx does, and LostError."""

    def limit(self, seconds: float | None) -> AbstractAsyncContextManager[Limit]:
        """A block around one request. After so many seconds it raises TimeoutError."""

    async def chunk(self, response: httpx.Response) -> bytes | None:
        """The next bytes of the body; None at its end. Raises what httpx does."""

    async def close(self, response: httpx.Response) -> None:
        """Close the response."""

    async def hand_over(self) -> None:
        """Let the caller take the session's values, and wait until it has taken all."""

    async def sleep(self, seconds: float) -> None:
        """Wait before the next connection."""

    def extensions(self) -> dict[str, Any]:
        """The extensions of httpx for the next request."""
        return {}


class Followed(Generic[V]):
    """The common part of the iterators of both clients. Raises UsageError."""

    _reader: Shell

    def __init__(self, session: Session[V], client: object, kind: type) -> None:
        if client is not None and session.cookies is not None:
            raise UsageError("cookies: give them to your own client")
        if client is not None and not isinstance(client, kind):
            given = type(client).__name__
            raise UsageError(f"client= must be an httpx.{kind.__name__}, not {given}")
        self._session = session

    @property
    def last_event_id(self) -> str:
        """The position of the last value that was returned; empty before the first."""
        return self._session.last_event_id

    @property
    def response(self) -> httpx.Response | None:
        """The latest response, for its status and headers; None before the first."""
        return self._reader.response


async def run(session: Session[Any], shell: Shell) -> None:
    """Connect again and again. Returns when the stream has ended for good; raises its error."""
    with session.named_errors():
        while True:
            token: Any = session.token
            if callable(token):
                token = await shell.settled(token())
            request = session.request(token, now=time.monotonic())
            decision = await (_poll if request.polls else _stream)(session, shell, request)
            if isinstance(decision, Wait):
                await shell.sleep(decision.seconds)
            elif decision.error is not None:
                raise decision.error
            else:
                return


async def _stream(session: Session[Any], shell: Shell, request: Request) -> Wait | Stop:
    early = request.first_byte_within
    limits = [each for each in (early, session.idle_timeout) if each is not None]
    try:
        # A head that comes byte by byte passes the time-out of every single read.
        async with shell.limit(min(limits, default=None)) as limit:
            response = await _answer(session, shell, request)
            try:
                status = response.status_code
                if not session.opened(status, response.headers):
                    body = await _body(shell, response, MAX_ERROR_BODY)
                    return session.refused(status, response.headers, body, now=time.time())
                if early is None:
                    limit.reschedule(None)
                if session.on_open is not None:
                    await shell.settled(session.on_open(response))
                while (chunk := await _chunk(shell, response)) is not None:
                    limit.reschedule(None)
                    session.feed(chunk)
                    await shell.hand_over()
                    # An event that is too large is an error now: no more bytes may come.
                    session.feed(b"")
            finally:
                await shell.close(response)
    except LostError as error:
        return session.lost(str(error))
    except TimeoutError:
        if not limit.expired():
            raise
        return session.late()
    return session.ended(now=time.time())


async def _poll(session: Session[Any], shell: Shell, request: Request) -> Wait | Stop:
    assert isinstance(session, FeedSession)
    try:
        async with shell.limit(session.idle_timeout):
            response = await _answer(session, shell, request)
            try:
                body = await _body(shell, response, session.max_event_bytes)
            finally:
                await shell.close(response)
    except LostError as error:
        return session.poll_lost(str(error))
    except TimeoutError:
        return session.poll_lost("the response did not come in time")
    decision = session.polled(
        response.status_code, response.headers, body, now=time.monotonic(), wall=time.time()
    )
    await shell.hand_over()
    return decision


async def _answer(session: Session[Any], shell: Shell, request: Request) -> httpx.Response:
    """The response after all redirects, with its body still to come. Raises LostError."""
    followed = 0
    try:
        asked = shell.client.build_request(
            request.method,
            request.url,
            headers=request.headers,
            content=request.content,
            timeout=session.timeout,
            extensions=shell.extensions(),
        )
        auth = session.auth
        while True:
            response = await shell.send(asked, auth)
            if response.next_request is None:
                break
            await shell.close(response)
            _check_redirect(response, followed)
            # Only the first host is given what signs in.
            asked, auth = response.next_request, None
            followed += 1
    except (HeadwaterError, LostError):
        raise
    except CONNECT_FAULTS as error:
        if isinstance(error.__context__, httpx.InvalidURL):
            raise PeerError(f"the server redirects to what is no address: {error}") from error
        raise LostError(cause_of(error)) from error
    shell.response = response
    encoding = unknown_encoding(response, shell.client)
    if encoding and response.status_code == httpx.codes.OK:
        await shell.close(response)
        raise ResponseError(
            response.status_code,
            f"the server answers with Content-Encoding {encoding[:80]!r}, which was not asked for "
            "and cannot be decoded here",
        )
    return response


def _check_redirect(response: httpx.Response, followed: int) -> None:
    """Raise ResponseError unless a redirect can be followed, after ``followed`` others."""
    target = response.next_request
    assert target is not None
    status, url = response.status_code, str(target.url)
    try:
        checked_url(url)
    except UsageError as error:
        raise ResponseError(status, f"it redirects, but {error}") from None
    if followed >= MAX_REDIRECTS:
        raise ResponseError(
            status,
            f"the address redirects in a circle: after {followed} redirects, again to "
            f"{url[:200]!r}",
        )


async def _chunk(shell: Shell, response: httpx.Response) -> bytes | None:
    """The next bytes of the body; None at its end. Raises LostError."""
    try:
        return await shell.chunk(response)
    except httpx.RequestError as error:
        raise LostError(cause_of(error)) from error


async def _body(shell: Shell, response: httpx.Response, most: int) -> bytes:
    """The body, cut at ``most`` bytes. Raises LostError."""
    body = bytearray()
    while len(body) < most and (chunk := await _chunk(shell, response)) is not None:
        body += chunk
    return bytes(body[:most])
