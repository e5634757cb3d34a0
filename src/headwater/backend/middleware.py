"""Middleware: a bound for request bodies, measures, security headers."""

from __future__ import annotations

import time
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headwater.backend.metrics import Measures
from headwater.web.problems import Problem

__all__ = ["BodyLimit", "Envelope"]

logger = structlog.stdlib.get_logger("headwater.access")

# Pages and scripts come from here alone; nothing inline, nothing from elsewhere.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", CONTENT_POLICY.encode()),
]


class BodyLimit:
    """Refuses a body over the bound with 413, when the body is read.

    So a caller without a right gets 401 or 403 all the same, and a body without a declared length
    is counted as it comes.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = _content_length(scope)
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            if declared is not None and declared > self._limit:
                raise self._too_large()
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > self._limit:
                    raise self._too_large()
            return message

        await self._app(scope, bounded, send)

    def _too_large(self) -> Problem:
        return Problem(413, f"The body is too large: at most {self._limit} bytes are allowed.")


class Envelope:
    """Adds the security headers, and measures (and, if configured, logs) each request."""

    def __init__(self, app: ASGIApp, measures: Measures, *, access_log: bool) -> None:
        self._app = app
        self._measures = measures
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        done = False

        async def observed(message: Message) -> None:
            nonlocal done
            if message["type"] == "http.response.start" and not done:
                done = True
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
                self._observe(scope, message["status"], time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, observed)

    def _observe(self, scope: Scope, status: int, seconds: float) -> None:
        # The route's pattern, never the path itself: each would be a time series of its own.
        route = _pattern(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._measures.observe(method, route, status, seconds)
        if self._access_log:
            client = scope.get("client")
            logger.info(
                "request",
                method=method,
                path=scope["path"],
                status=status,
                ms=round(seconds * 1000, 1),
                client=client[0] if client else None,
            )


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _pattern(scope: Scope) -> str:
    # FastAPI keeps an included router's full path in a context of the request.
    route: Any = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else "none"


def _content_length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else None
    return None
