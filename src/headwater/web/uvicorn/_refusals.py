"""Answers that the server gives itself: to what is no request, and above its limits."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, NamedTuple

from headwater.web.uvicorn._limits import Limits

_PROBLEM = b"application/problem+json"
# Milliseconds after which a client may try again, at random: many are refused in one moment.
_AGAIN = (2000, 8000)


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


# The first lines of answers.
STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}


def _problem(status: int, detail: str) -> bytes:
    title = HTTPStatus(status).phrase
    return json.dumps(
        {"type": "about:blank", "title": title, "status": status, "detail": detail}
    ).encode()


class Refused(NamedTuple):
    """What a client sent that is no request, and how it is answered.

    Attributes:
        reason: under which it is counted.
        detail: a sentence for the client.
    """

    status: int
    reason: str
    detail: str


MALFORMED = Refused(400, "malformed", "This is not an HTTP/1.1 request.")


def too_large(limits: Limits) -> Refused:
    """For a head above the limits."""
    return Refused(
        431,
        "head_size",
        f"The request's head is too large: at most {limits.head_bytes} bytes and "
        f"{limits.head_lines} header lines are allowed.",
    )


def late_head(limits: Limits) -> Refused:
    """For a head that came too slowly."""
    return Refused(
        408, "head_time", f"The request's head was not whole after {limits.head_seconds:g} s."
    )


def late_body(limits: Limits) -> Refused:
    """For a body that came too slowly."""
    return Refused(
        408,
        "body_time",
        f"The request's body was not whole after {limits.body_seconds:g} s, and came slower than "
        f"{limits.body_rate} bytes a second.",
    )


def refusal(refused: Refused, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The whole answer to what is no request; the connection is closed after it."""
    body = _problem(refused.status, refused.detail)
    lines = [b"%b: %b\r\n" % pair for pair in headers]
    return b"%b%bcontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (
        STATUS_LINES[refused.status],
        b"".join(lines),
        _PROBLEM,
        len(body),
        body,
    )


class Refusal:
    """An ASGI application that answers every request with one problem.

    A client that asks for a stream gets an empty one instead, which tells it when to come back: any
    status but 200 ends a browser's EventSource for good (WHATWG HTML, 9.2.3).
    """

    def __init__(self, status: int, detail: str) -> None:
        self._status = status
        self._detail = detail

    async def __call__(self, scope: dict[str, Any], _receive: Any, send: Any) -> None:
        again = random.randint(*_AGAIN)
        if _asks_for_a_stream(scope):
            status, kind = 200, b"text/event-stream; charset=utf-8"
            body = f"retry: {again}\n: {self._detail}\n\n".encode()
        else:
            status, kind, body = self._status, _PROBLEM, _problem(self._status, self._detail)
        headers = [
            (b"content-type", kind),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"retry-after", b"%d" % -(-again // 1000)),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _asks_for_a_stream(scope: dict[str, Any]) -> bool:
    return any(
        name == b"accept" and b"text/event-stream" in value.lower()
        for name, value in scope["headers"]
    )


def too_many(why: str) -> Refusal:
    """For a connection above the limits."""
    if why == "address":
        return Refusal(429, "Too many connections from this address; close some, or try later.")
    return Refusal(503, "This server has as many connections as it may; try again later.")
