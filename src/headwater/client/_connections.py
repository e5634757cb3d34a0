"""The connections of a followed stream, one after the other, for both clients.

``run`` is written once, as a coroutine over a ``Shell``. The client for asyncio awaits it in a
task. The shell of the other client blocks where asyncio would suspend, so that client runs the
coroutine by itself, one step for each value that it waits for.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
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
    least,
    unknown_encoding,
)
from headwater.errors import HeadwaterError, PeerError, ResponseError, UsageError
from headwater.protocol import Stop, Wait

__all__ = ["Followed", "Shell", "run"]

V = TypeVar("V")


class Limit(Protocol):
    """As ``asyncio.Timeout``: a block that takes longer ends with TimeoutError."""

    def reschedule(self, when: None, /) -> None:
        """Let the block take as long as it likes."""

    def expired(self) -> bool:
        """Whether the block took too long."""


class Shell(ABC):
    """The network, the clock and the caller's functions, as asyncio or threads have them.

    Attributes:
        client: sends the requests.
        response: the newest answer after all redirects; None before the first.
    """

    client: httpx.Client | httpx.AsyncClient
    response: httpx.Response | None = None

    @abstractmethod
    async def settled(self, result: Any) -> Any:
        """The result of a call of httpx or of the caller's function, awaited if it must be."""

    @abstractmethod
    def limit(self, seconds: float | None) -> AbstractAsyncContextManager[Limit]:
        """A block for one request, at most so long."""

    @abstractmethod
    async def chunk(self, response: httpx.Response) -> bytes | None:
        """The next bytes of the body; None at its end. Raises what httpx does."""

    @abstractmethod
    async def close(self, response: httpx.Response) -> None:
        """Close the answer."""

    @abstractmethod
    async def hand_over(self) -> None:
        """Wait until everything was taken from the session."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Wait before the next connection."""

    def extensions(self) -> dict[str, Any]:
        """The extensions of httpx for the next request."""
        return {}


class Followed(Generic[V]):
    """The part of an iterator that both clients share. Raises UsageError."""

    def __init__(self, session: Session[V], shell: Shell, client: object) -> None:
        if client is not None and session.cookies is not None:
            raise UsageError("cookies: give them to your own client")
        self._session = session
        self._shell = shell

    @property
    def last_event_id(self) -> str:
        """The position of the last value that was returned; empty before the first."""
        return self._session.last_event_id

    @property
    def response(self) -> httpx.Response | None:
        """The latest response, for its status and headers; None before the first."""
        return self._shell.response


async def run(session: Session[Any], shell: Shell) -> None:
    """Connect, and connect again. Returns at the end of the stream; raises what else ended it."""
    while True:
        token: Any = session.token
        if callable(token):
            token = await shell.settled(token())
        request = session.request(token, now=time.monotonic())
        decision = await (_poll if request.polls else _stream)(session, shell, request)
        if isinstance(decision, Stop):
            if decision.error is not None:
                raise decision.error
            return
        await shell.sleep(decision.seconds)


async def _stream(session: Session[Any], shell: Shell, request: Request) -> Wait | Stop:
    early = request.first_byte_within
    limited = shell.limit(least(early, session.idle_timeout))
    try:
        # A head that comes byte by byte passes the time-out of every single read.
        async with limited as limit:
            response = await _answer(session, shell, request)
            try:
                status = response.status_code
                if not session.opened(status, response.headers):
                    body = await _body(shell, response, MAX_ERROR_BODY)
                    return session.refused(status, response.headers, body, now=time.time())
                if encoding := unknown_encoding(response, shell.client):
                    return Stop(session.unreadable(status, encoding))
                if early is None:
                    limit.reschedule(None)
                if session.on_open is not None:
                    await shell.settled(session.on_open(response))
                while (chunk := await _chunk(shell, response)) is not None:
                    limit.reschedule(None)
                    session.feed(chunk)
                    await shell.hand_over()
                    if (failure := session.check()) is not None:
                        return Stop(failure)
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
                if encoding := unknown_encoding(response, shell.client):
                    return Stop(session.unreadable(response.status_code, encoding))
                body = await _body(shell, response, session.max_event_bytes)
            finally:
                await shell.close(response)
    except LostError as error:
        return session.poll_lost(str(error))
    except TimeoutError:
        return session.poll_lost("the answer did not come in time")
    decision = session.polled(
        response.status_code, response.headers, body, now=time.monotonic(), wall=time.time()
    )
    await shell.hand_over()
    return decision


async def _answer(session: Session[Any], shell: Shell, request: Request) -> httpx.Response:
    """The answer after all redirects, with its body still to come. Raises LostError."""
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
        auth = session.auth if session.signs_in else httpx.USE_CLIENT_DEFAULT
        while True:
            sent = shell.client.send(asked, stream=True, auth=auth, follow_redirects=False)
            response: httpx.Response = await shell.settled(sent)
            if response.next_request is None:
                shell.response = response
                return response
            await shell.close(response)
            _check_redirect(response, followed)
            # Only the first host is given what signs in.
            asked, auth = response.next_request, None
            followed += 1
    except HeadwaterError:
        raise
    except CONNECT_FAULTS as error:
        if isinstance(error.__context__, httpx.InvalidURL):
            raise PeerError(f"the server redirects to what is no address: {error}") from error
        raise LostError(cause_of(error)) from error


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
