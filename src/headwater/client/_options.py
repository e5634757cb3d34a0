"""The options of the functions that follow streams and feeds, and the checks of some of them."""

from __future__ import annotations

import json as json_module
from collections.abc import Awaitable, Callable, Iterable, Mapping
from os import PathLike
from typing import Any, TypedDict

from headwater.client._address import Params
from headwater.client._headers import Headers
from headwater.client._transport import httpx
from headwater.errors import UsageError
from headwater.protocol import Wait

Token = str | Callable[[], str | Awaitable[str]]


class StreamOptions(TypedDict, total=False):
    """The options of every function that follows a stream.

    Attributes:
        method: the HTTP method. The default is ``POST`` with a body, and ``GET`` without one.
        params: added to the address's query.
        json: sent as the request's body, as JSON.
        content: sent as the request's body, unchanged.
        headers: sent with every request. They replace headers that the client sends by itself. If
            a name is given twice, the later one is sent.
        token: an API key, sent as ``Authorization: Bearer``, or a function that returns one. The
            function is called before each connection, and once more after a 401. For asyncio it
            may be a coroutine function.
        auth: how to sign in, as httpx takes it: a pair for basic authentication, or an
            ``httpx.Auth``. Not together with ``token``.
        last_event_id: the position to continue from: the ``last_event_id`` of an earlier message.
        position_file: a file that keeps the position. It is read at once, unless ``last_event_id``
            is given. It is written after each message that was handled: when the next one is
            requested, or when the ``with`` block ends without an error.
        on_position: called with the position at the same moments. For asyncio it may be a
            coroutine function.
        reconnect: whether to connect again after the stream has ended or broken. The default is
            True for GET only, because a second POST may do its work twice. With False the iteration
            ends with the stream, and a stream that broke raises an error.
        retry: seconds before a reconnect, until the server sends another value; 2 by default.
        give_up_after: the number of failures in a row after which the last error is raised. None,
            the default: never.
        max_event_bytes: the most bytes of one event; 8 MiB by default.
        on_open: called with the ``httpx.Response`` of each stream that opens, before its messages.
            For asyncio it may be a coroutine function.
        on_wait: a plain function, called with the ``Wait`` before each reconnect, for log lines.
        cookies: sent to the address's host only.
        idle_timeout: seconds without a byte, heartbeats included, after which the connection counts
            as dead. A response must begin within them too. 90 by default; None: no limit.
        random: a function that returns floats from 0 to 1, for the random part of each wait.
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
    """The options of every function that follows a feed, beside those of a stream.

    Attributes:
        fallback: seconds within which a stream must send its first byte; 5 by default. If it sends
            none, a proxy collects the response. The client then asks the REST half by long-polls,
            and tries the stream again now and then. A page has one position, so a program that ends
            in the middle of a page gets its items again. None: never poll.
        envelope: the member of each response that has the page or the item, such as ``"data"`` in
            ``{"success": true, "data": …}``, if the feed was declared with ``envelope=``.
    """

    fallback: float | None
    envelope: str | None


# The type of each option, in code and in words. The others are checked where they are used.
_TYPES: dict[str, tuple[Any, str]] = {
    "content": ((str, bytes), "a str or bytes"),
    "headers": (Iterable, "a mapping of str, or pairs of str"),
    "cookies": (Mapping, "a mapping of str"),
    "token": ((str, Callable), "a str, or a function that returns one"),
    "auth": ((tuple, Callable, httpx.Auth), "a pair of str, or an httpx.Auth"),
    "position_file": ((str, PathLike), "a path"),
    "reconnect": (bool, "True or False"),
    "give_up_after": (int, "a number of failures"),
    "max_event_bytes": (int, "a number of bytes"),
    "envelope": (str, "the name of a member"),
    **dict.fromkeys(["on_position", "on_open", "on_wait", "random"], (Callable, "a function")),
    **dict.fromkeys(["retry", "idle_timeout", "fallback"], ((int, float), "a number of seconds")),
}
_NEVER_NONE = {"retry", "max_event_bytes", "random"}


def check_options(options: Mapping[str, object], known: type) -> None:
    """Raise TypeError for an option that ``known`` has not, and UsageError for a wrong type.

    The text has no value, because a value may be a secret.
    """
    names = known.__annotations__
    for name, value in options.items():
        if name not in names:
            raise TypeError(f"there is no option {name}=: there are {', '.join(sorted(names))}")
        wanted, words = _TYPES.get(name, (object, ""))
        if not isinstance(value, wanted) and (value is not None or name in _NEVER_NONE):
            raise UsageError(f"{name}= must be {words}, not {type(value).__name__}")


def check_position(position: object) -> None:
    """Raise UsageError unless it can be a last event ID."""
    if not isinstance(position, str) or set(position) & set("\0\r\n"):
        raise UsageError(f"last_event_id={position!r:.80}: a position is a str of one line")
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
