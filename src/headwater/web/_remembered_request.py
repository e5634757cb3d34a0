"""A request that can be run again, to check the right of the stream that came of it."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

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

# The keys of a scope that differ between requests, and are kept for each.
_OWN = ("path", "raw_path", "query_string", "headers", "client", "path_params", "state")
# The keys that belong to the connection, and are not kept.
_CONNECTION = frozenset({"extensions"})

# In the scope of a request of which only the right is asked: handlers with ``sse=`` do not run.
RECHECK = "headwater.recheck"


class RememberedRequest:
    """A request whose route can be run again to check its right.

    It keeps the scope as the route was given it, without the connection and the body. Middleware
    does not run again: what it wrote into the scope then is what a re-check sees. Values that all
    requests of a route have in common are kept once.

    Arguments:
        scope: as it is before any guard or dependency runs.
        common: kept by the route for all its requests; filled by the first.

    Attributes:
        name: equal for requests whose rights are the same question.
    """

    __slots__ = ("_common", "_own", "_rare", "_stacks", "name")

    def __init__(self, scope: Mapping[str, Any], common: dict[str, Any]) -> None:
        self._stacks = stacks_of(scope)
        shared = {
            key: value
            for key, value in scope.items()
            if key not in _OWN
            and key not in _CONNECTION
            and key not in self._stacks
            and not key.startswith("headwater.")
        }
        if not common:
            common.update(shared)
        self._common = common
        rare = {
            key: value
            for key, value in shared.items()
            if key not in common or not (common[key] is value or common[key] == value)
        }
        if common.keys() > shared.keys():
            self._common, rare = {}, shared
        self._rare = rare or None
        own = (scope.get(key) for key in _OWN)
        self._own = tuple(copy.copy(each) if isinstance(each, dict) else each for each in own)
        headers = tuple(sorted([pair for pair in scope["headers"] if pair[0] not in _INDIFFERENT]))
        client = (scope.get("client") or ("",))[0]
        self.name = (scope["path"], scope.get("query_string", b""), headers, client)

    @property
    def address(self) -> str:
        """What was asked for: the path, with its query."""
        path, query, _, _ = self.name
        return f"{path}?{query.decode('latin-1')}" if query else str(path)

    @property
    def client(self) -> str:
        """The client's address; empty where the server knows none."""
        return str(self.name[3])

    async def run(
        self, app: Callable[[dict[str, Any], Any, Any], Awaitable[None]]
    ) -> tuple[int | None, dict[str, Any]]:
        """Run ``app`` on a copy of the request. Returns the status that it sent, and the scope."""
        own = {key: value for key, value in zip(_OWN, self._own, strict=True) if value is not None}
        scope = {
            key: copy.copy(value) if isinstance(value, dict) else value
            for key, value in {**self._common, **(self._rare or {}), **own}.items()
        }
        scope[RECHECK] = True
        status: int | None = None

        async def send(message: Mapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]

        async with own_stacks(scope, self._stacks):
            await app(scope, _no_body, send)
        return status, scope


def stacks_of(scope: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys under which frameworks keep what closes the dependencies of a request."""
    return tuple(key for key in scope if isinstance(scope[key], AsyncExitStack))


@asynccontextmanager
async def own_stacks(scope: MutableMapping[str, Any], keys: Iterable[str]) -> AsyncIterator[None]:
    """Close the dependencies of what runs inside when it ends, not with those of the request."""
    before = {key: scope[key] for key in keys if key in scope}
    try:
        async with AsyncExitStack() as stack:
            for key in keys:
                scope[key] = await stack.enter_async_context(AsyncExitStack())
            yield
    finally:
        scope.update(before)


async def _no_body() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}
