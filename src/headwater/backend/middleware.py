"""Middleware: a bound for request bodies, measures, security headers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import structlog
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headwater.backend.auth.dependencies import authenticate_again
from headwater.backend.metrics import Measures
from headwater.backend.problems import too_many
from headwater.backend.throttle import Writes
from headwater.web._addresses import network_of
from headwater.web._identity import subjects
from headwater.web.problems import Problem, internal_problem, problem_response

logger = structlog.stdlib.get_logger("headwater.access")

# Pages and scripts come from here alone; nothing inline, nothing from elsewhere.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)

# Largest bodies of one caller that are held at once.
_MOST_HELD = 16
# Seconds for which what was decided of a caller holds while the body comes.
_SLOW = 0.5

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", CONTENT_POLICY.encode()),
]


class BodyLimit:
    """Bounds what the application reads of requests' bodies.

    A body over the limit is answered 413. A caller of whom too many bytes come, or are held, gets
    429. A caller without the permission gets 401 or 403 first, as nothing is read of theirs. A body
    without Content-Length is counted while it arrives. After a slow body the caller's rights are
    asked again, as they may have ended meanwhile.

    Arguments:
        limit: the largest body, in bytes.
        less: smaller limits, by path.
        writes: a long body counts there like several requests.
    """

    def __init__(
        self, app: ASGIApp, limit: int, less: Mapping[str, int], writes: Callable[[], Writes]
    ) -> None:
        self._app = app
        self._limit = limit
        self._less = less
        self._writes = writes
        # Bytes of bodies whose requests are not answered yet, by caller.
        self._held: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = min(self._limit, self._less.get(scope["path"], self._limit))
        declared = dict(scope["headers"]).get(b"content-length", b"")
        caller, taken = "", 0
        began = time.monotonic()

        async def bounded() -> Message:
            nonlocal caller, taken
            if declared.isdigit() and int(declared) > limit:
                raise _too_large(limit)
            message = await receive()
            if message["type"] == "http.request" and (size := len(message.get("body", b""))):
                caller = caller or _caller(scope)
                before, taken = taken, taken + size
                self._held[caller] += size
                if taken > limit:
                    raise _too_large(limit)
                if self._held[caller] > _MOST_HELD * self._limit:
                    raise too_many("Too many long requests of yours are under way; wait.", 1)
                self._writes().check_body(caller, before, taken)
            if time.monotonic() - began > _SLOW:
                authenticate_again(scope)
            return message

        try:
            await self._app(scope, bounded, send)
        finally:
            if taken:
                self._held[caller] -= taken
                if not self._held[caller]:
                    del self._held[caller]


def _caller(scope: Scope) -> str:
    """On whose behalf a request is made, as `Writes` has it."""
    client = scope.get("client")
    return next(iter(subjects(scope)), None) or f"network:{network_of(client and client[0])}"


def _too_large(limit: int) -> Problem:
    return Problem(413, f"The body is too large: at most {limit} bytes are allowed.")


class OwnCookies:
    """Drops all cookies but the backend's own, before anything parses them.

    FastAPI parses the cookies of every request. Python before 3.11.10 and 3.12.6 needs a time for a
    quoted one that grows with the square of its length: 20 s for 60 KB, which anyone may send.

    Arguments:
        names: of the backend's cookies. Their values are never quoted.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app = app
        self._names = frozenset(name.encode() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["headers"] = [
                (name, value if name != b"cookie" else self._own(value))
                for name, value in scope["headers"]
            ]
        await self._app(scope, receive, send)

    def _own(self, header: bytes) -> bytes:
        return b";".join(
            pair
            for pair in header.split(b";")
            if pair.partition(b"=")[0].strip() in self._names and b'"' not in pair
        )


class AllowedOrigins(CORSMiddleware):
    """Lets pages of other origins call, and answers a preflight that it refuses with a problem."""

    def preflight_response(self, request_headers: Headers) -> Response:
        found = super().preflight_response(request_headers)
        if found.status_code < 400:
            return found
        kept = {k: v for k, v in found.headers.items() if not k.startswith("content-")}
        detail = f"{bytes(found.body).decode()}."
        return problem_response(found.status_code, detail, headers=kept)


class AllowedHosts:
    """Answers requests for other host names with 400, but for probes, which name the machine."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app = app
        self._names = frozenset(host for host in hosts if not host.startswith("*"))
        self._endings = tuple(host[1:] for host in hosts if host.startswith("*"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _PROBES:
            named = [value for name, value in scope["headers"] if name == b"host"]
            if len(named) != 1 or not self._allows(_without_port(named[0].decode("latin-1"))):
                detail = "This server does not serve the host that the request names."
                await problem_response(400, detail)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _allows(self, host: str) -> bool:
        return host in self._names or host.endswith(self._endings)


def _without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


class Envelope:
    """Adds security headers to each answer. Measures each request, and can log it.

    Arguments:
        routes: those of the application. A 405 says by them which methods a path has.
        access_log: whether requests are logged.
    """

    def __init__(
        self, app: ASGIApp, measures: Measures, routes: Sequence[BaseRoute], *, access_log: bool
    ) -> None:
        self._app = app
        self._routes = routes
        self._measures = measures
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        done = False
        method = scope["method"]
        if method == "HEAD" and not self._has(scope, "HEAD") and self._has(scope, "GET"):
            # FastAPI's own routes lack it. The server leaves the body out.
            scope = {**scope, "method": "GET"}

        async def observed(message: Message) -> None:
            nonlocal done
            if message["type"] == "http.response.start" and not done:
                done = True
                headers = list(message.get("headers", ()))
                if message["status"] == 405:
                    headers = [pair for pair in headers if pair[0].lower() != b"allow"]
                    headers.append((b"allow", self._methods(scope).encode()))
                if scope["path"].startswith("/api/") and not any(
                    name.lower() == b"cache-control" for name, _ in headers
                ):
                    # It is for one caller: no proxy and no browser may store it.
                    headers.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*headers, *_HEADERS]}
                self._observe(scope, method, message["status"], time.perf_counter() - began)
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception:
            # Further out there is only Starlette's own handler, whose answer nobody would measure.
            if not done:
                await internal_problem()(scope, receive, observed)
            raise

    def _methods(self, scope: Scope) -> str:
        """The methods of all routes with this path. Each route only knows its own."""
        found = {method for method in _METHODS if self._has(scope, method)}
        if "GET" in found:
            found.add("HEAD")
        return ", ".join(method for method in _METHODS if method in found)

    def _has(self, scope: Scope, method: str) -> bool:
        """Whether there is a route with this path and method."""
        asked = {**scope, "method": method}
        return any(route.matches(asked)[0] == Match.FULL for route in self._routes)

    def _observe(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        # The route's pattern, never the path itself: each would be a time series of its own.
        route = _pattern(scope)
        method = method if method in _METHODS else "other"
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


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})


def _pattern(scope: Scope) -> str:
    # FastAPI keeps an included router's full path in a context of the request.
    route: Any = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else "none"
