"""The options of every way to follow a stream, and the checks of those that need one."""

from __future__ import annotations

import json as json_module
from collections.abc import Awaitable, Callable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, TypedDict

from headwater.client._address import Params
from headwater.client._headers import Headers
from headwater.errors import UsageError
from headwater.protocol import Wait

if TYPE_CHECKING:
    import httpx

__all__ = ["FollowOptions", "StreamOptions", "Token", "body_of", "check_position", "method_of"]

Token = str | Callable[[], str | Awaitable[str]]


class StreamOptions(TypedDict, total=False):
    """What every way to follow a stream takes.

    Attributes:
        method: ``GET``, or ``POST`` where there is a body, unless it is given.
        params: put into the address's query.
        json: sent as the request's body, as JSON.
        content: sent as the request's body, as it is.
        headers: sent with every request. Where a name is given twice, the later one counts, and
            these count more than what the client sends by itself.
        token: an API key, sent as ``Authorization: Bearer``. A function, for asyncio also a
            coroutine function, is called before each connection, and once more after a 401.
        auth: how to sign in, as httpx takes it: a pair for basic authentication, or an
            ``httpx.Auth``. Not together with ``token``.
        last_event_id: the position to go on from, as an earlier message gave it.
        position_file: a file that keeps the position. It is read now, unless ``last_event_id`` is
            given, and written after each message that was handled: when the next one is asked for,
            or when the ``with`` block ends without an error.
        on_position: called with the position at the same moments. For asyncio it may be a
            coroutine function.
        reconnect: whether to connect again after the stream has ended or broken. By default only
            GET does: to ask again with POST may do something again. Without it the iteration ends
            with the stream, and a stream that broke is an error.
        retry: seconds to wait before a reconnect until the server says otherwise; 2.
        give_up_after: failures in a row after which the error is raised; None (default) never.
        max_event_bytes: the bound for one event; 8 MiB.
        on_open: called with the ``httpx.Response`` of each stream that opens, before its messages.
            For asyncio it may be a coroutine function.
        on_wait: called with the ``Wait`` before each reconnect, for people. A plain function.
        cookies: sent to the address's host alone.
        idle_timeout: the longest silence in seconds, heartbeats included, after which the
            connection is taken for dead, and the longest time until an answer begins; 90. None
            waits for ever.
        random: floats of 0 to 1, for the jitter.
    """

    method: str | None
    params: Params | None
    json: Any
    content: str | bytes | None
    headers: Headers | None
    token: Token | None
    auth: Any
    last_event_id: str | None
    position_file: str | PathLike[str] | None
    on_position: Callable[[str], object] | None
    reconnect: bool | None
    retry: float
    give_up_after: int | None
    max_event_bytes: int
    on_open: Callable[[httpx.Response], object] | None
    on_wait: Callable[[Wait], object] | None
    cookies: Mapping[str, str] | None
    idle_timeout: float | None
    random: Callable[[], float]


class FollowOptions(StreamOptions, total=False):
    """What every way to follow a feed takes, beside what a stream takes.

    Attributes:
        fallback: seconds in which a stream must bring its first byte; 5. A stream that brings none
            is in the hands of a proxy that collects answers: the REST half is then asked by
            long-polls, and now and then the stream is tried again. A page has one position, so a
            program that is ended within one gets its items again. None never polls.
        envelope: the member of each answer that has the page or the item, such as ``"data"`` in
            ``{"success": true, "data": …}``, where the feed was declared with ``envelope=``.
    """

    fallback: float | None
    envelope: str | None


def check_position(position: object) -> None:
    """Raise UsageError unless it can be a last event ID."""
    if not isinstance(position, str) or set(position) & set("\0\r\n"):
        raise UsageError(f"last_event_id={position!r:.80}: a position is a str in one line")
    try:
        position.encode()
    except UnicodeEncodeError:
        raise UsageError(f"last_event_id={position!r:.80}: it holds a lone surrogate") from None


def method_of(method: str | None, content: bytes | None) -> str:
    """The method of a request with this body. Raises UsageError."""
    if method is None:
        return "GET" if content is None else "POST"
    if not isinstance(method, str) or not method.isascii() or not method.isalpha():
        raise UsageError(f"method={method!r}: the name of an HTTP method, such as GET or POST")
    return method.upper()


def body_of(json: Any, content: str | bytes | None) -> tuple[bytes | None, list[tuple[str, str]]]:
    """The bytes of a request's body, and the headers that go with them. Raises UsageError."""
    if json is not None and content is not None:
        raise UsageError("give json= or content=, not both")
    try:
        if json is None:
            return (content.encode() if isinstance(content, str) else content), []
        text = json_module.dumps(json, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode(), [("Content-Type", "application/json")]
    except (TypeError, ValueError, RecursionError) as error:
        name = "content" if json is None else "json"
        raise UsageError(f"{name}=: it cannot be sent: {error}") from None
