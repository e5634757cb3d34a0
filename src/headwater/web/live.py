"""What the routes of one application share while it runs: the hub and the leases."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import signal
import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from headwater.delivery.hub import Hub
from headwater.delivery.open_streams import Counters
from headwater.web.leases import CHANGED, Leases, Verdict
from headwater.web.problems import Problem

__all__ = ["CommonScopes", "Live", "Renewed", "renewed_request", "verdict_of"]

logger = logging.getLogger("headwater.web")

# Seconds that a client is told to wait when a process shuts down: a new one is up by then.
_RETRY_AFTER = "2"

# Headers in which requests of one caller differ without meaning another right.
_INDIFFERENT = frozenset(
    {
        b"last-event-id", b"accept", b"accept-encoding", b"accept-language", b"cache-control",
        b"connection", b"pragma", b"user-agent", b"referer", b"sec-fetch-dest", b"sec-fetch-mode",
        b"sec-fetch-site", b"sec-fetch-user", b"sec-ch-ua", b"sec-ch-ua-mobile",
        b"sec-ch-ua-platform", b"traceparent", b"tracestate", b"x-request-id", b"priority", b"dnt",
        b"if-none-match",
    }
)  # fmt: skip


class Live:
    """The hub and the leases of one application, made when its event loop runs."""

    def __init__(self, *, write_timeout: float, recheck: float, io_uring: bool) -> None:
        self._write_timeout = write_timeout
        self._io_uring = io_uring
        self._recheck = recheck
        self._hub: Hub | None = None
        self._leases: Leases | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def hub(self) -> Hub:
        """The hub of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._hub is None or self._loop is not loop:
            # Tests run one application in several loops, one after another.
            self._hub = Hub(write_timeout=self._write_timeout, io_uring=self._io_uring)
            self._leases = Leases(self._hub.streams, interval=self._recheck)
            self._loop = loop
        return self._hub

    @property
    def leases(self) -> Leases:
        """The leases of the running event loop."""
        _ = self.hub
        assert self._leases is not None
        return self._leases

    @property
    def counters(self) -> Counters:
        """What delivery has counted; zeros before the first stream."""
        return Counters() if self._hub is None else self._hub.streams.counters

    def refuse_while_draining(self) -> None:
        """Raise 503 when the process is about to end."""
        streams = self.hub.streams
        if streams.draining:
            streams.counters.refused += 1
            raise Problem(
                503,
                "This server is shutting down; connect again.",
                headers={"Retry-After": _RETRY_AFTER},
            )

    async def drain(self, spread: float = 5.0) -> None:
        """Refuse new streams and end the open ones over ``spread`` seconds at most."""
        await self.hub.streams.drain(spread=spread)

    async def close(self) -> None:
        """End everything."""
        if self._hub is not None and self._loop is asyncio.get_running_loop():
            self.leases.close()
            await self._hub.streams.drain(spread=1.0)
            await self._hub.close()
        self._hub = self._leases = self._loop = None

    def drain_on_sigterm(self) -> Callable[[], None]:
        """Begin to drain when the process is told to end. Returns what undoes it.

        ASGI servers wait for open responses first and tell the application of the shut-down last,
        so a stream would keep the process alive. The server's own handler is called as before.
        """
        if threading.current_thread() is not threading.main_thread():
            return lambda: None
        loop = asyncio.get_running_loop()
        before: dict[int, Any] = {}

        def begin() -> None:
            task = loop.create_task(self.drain())
            self._draining = task

        def handler(number: int, frame: Any) -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(begin)
            previous = before[number]
            if callable(previous):
                previous(number, frame)
            elif previous == signal.SIG_DFL:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)

        for number in (signal.SIGTERM, signal.SIGINT):
            current = signal.getsignal(number)
            # Without a server's handler the process is to end the way it always does.
            if callable(current) and current is not signal.default_int_handler:
                before[number] = current
                signal.signal(number, handler)

        def undo() -> None:
            for number, previous in before.items():
                if signal.getsignal(number) is handler:
                    signal.signal(number, previous)

        return undo


# What requests to one route have in common, by far the most of them.
_COMMON = (
    *("type", "asgi", "http_version", "method", "scheme", "root_path", "server"),
    *("app", "router", "route"),
)
# What middleware may have put there.
_RARE = frozenset({"session", "user", "auth"})
_MOST_COMMON = 64

CommonScopes = dict[Hashable, dict[str, Any]]


async def _nothing() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


class Renewed:
    """Makes requests like one that came, to ask its rights again.

    It keeps no more of the original than what was sent: neither its connection nor its body. There
    is one for each caller that differs, so what is the same for all is kept once.
    """

    __slots__ = ("_client", "_common", "_headers", "_params", "_path", "_query", "_rare", "_state")

    def __init__(
        self, scope: Mapping[str, Any], state: Mapping[str, Any], common: CommonScopes
    ) -> None:
        server = scope.get("server")
        name = (
            scope.get("http_version"),
            scope.get("method"),
            scope.get("scheme"),
            scope.get("root_path"),
            tuple(server) if server else None,
        )
        shared = common.get(name)
        if shared is None:
            if len(common) >= _MOST_COMMON:
                common.clear()
            shared = common[name] = {key: scope[key] for key in _COMMON if key in scope}
        self._common = shared
        path, raw = scope["path"], scope.get("raw_path")
        self._path = path if raw == path.encode() else (path, raw)
        self._query = scope.get("query_string", b"")
        self._headers = scope["headers"]
        self._client = scope.get("client")
        self._params = scope.get("path_params") or None
        self._rare = None
        if not _RARE.isdisjoint(scope):
            self._rare = {key: scope[key] for key in _RARE if key in scope}
        self._state = dict(state) or None

    def __call__(self) -> Request:
        path = self._path
        text, raw = (path, path.encode()) if isinstance(path, str) else path
        rare = dict(self._rare or {})
        if "session" in rare:
            rare["session"] = copy.copy(rare["session"])
        return Request(
            {
                **self._common,
                **rare,
                "path": text,
                "raw_path": raw,
                "query_string": self._query,
                "headers": self._headers,
                "client": self._client,
                "path_params": dict(self._params or {}),
                "state": dict(self._state or {}),
            },
            _nothing,
        )


def renewed_request(
    request: Request, state: Mapping[str, Any], common: CommonScopes
) -> tuple[Renewed, tuple[object, ...]]:
    """What makes requests like this one, to ask its rights again, and a name for the question.

    Arguments:
        state: what ``request.state`` held before any guard: asking again means without what they
            have cached there, the first time or any other.
        common: kept by the route, for all its requests.
    """
    scope = request.scope
    headers = tuple(sorted([pair for pair in scope["headers"] if pair[0] not in _INDIFFERENT]))
    client = (scope.get("client") or ("",))[0]
    name = (scope["path"], scope.get("query_string", b""), headers, client)
    return Renewed(scope, state, common), name


def verdict_of(error: HTTPException) -> Verdict:
    """What an error of a guard means for a stream that is open already."""
    if error.status_code in (401, 403):
        return error.status_code
    if error.status_code == 404:
        # What one may no longer know of.
        return 403
    if error.status_code >= 500 or error.status_code == 429:
        return None
    return CHANGED
