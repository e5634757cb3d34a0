"""Headwater for FastAPI: ``LiveRouter`` with ``sse=`` on routes and ``feed()``.

app = FastAPI()
live = LiveRouter(heartbeat=30.0)
live.install(app, prefix="/api")
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from headwater.errors import DeclarationError, MissingExtraError

try:
    from fastapi import APIRouter, FastAPI, params
except ImportError as error:  # pragma: no cover - only without the extra
    raise MissingExtraError("fastapi", "fastapi") from error

from headwater.delivery.event_stream import EventStream
from headwater.delivery.hub import Hub
from headwater.delivery.open_streams import Counters
from headwater.feeds.feed import DEFAULT_LIMIT, Feed
from headwater.feeds.source import Source
from headwater.protocol import Comment, Event
from headwater.web.asgi import SSE
from headwater.web.event_route import EventRoute, take_stream
from headwater.web.feed_route import FeedDeclaration, FeedRoute, FeedStreamRoute, planned
from headwater.web.guards import Guard, GuardedRoute, guard, identify
from headwater.web.items import encoder_of, page_model
from headwater.web.live import Live
from headwater.web.openapi import describe
from headwater.web.paging import described
from headwater.web.problems import Problem, install_problems
from headwater.web.routing import find_quickly, make_routes
from headwater.web.shortcut import cut_short

__all__ = [
    "SSE",
    "Comment",
    "Event",
    "EventStream",
    "GuardedRoute",
    "LiveRouter",
    "Problem",
    "Source",
    "guard",
    "identify",
]

Handler = TypeVar("Handler", bound=Callable[..., Any])
Requirement = str | params.Depends | Sequence[str | params.Depends] | None


class LiveRouter(APIRouter):
    """A router whose routes can stream and whose feeds are pairs.

    Arguments:
        heartbeat: seconds of silence after which streams are sent a comment; None for none.
        requires: makes the guard of a permission, for ``feed(..., requires="logs.view")``.
        recheck: seconds between two questions for a stream's rights, at most 30.
        write_timeout: seconds after which a peer that takes no bytes is dropped.
        io_uring: write to many streams in one system call, where Linux offers that to the process
            and ``headwater.web.uvicorn:Protocol`` the connections. Else each gets a ``write()``.
        options: as APIRouter takes them.
    """

    def __init__(
        self,
        *,
        heartbeat: float | None = 30.0,
        requires: Callable[[str], Any] | None = None,
        recheck: float = 25.0,
        write_timeout: float = 30.0,
        io_uring: bool = True,
        **options: Any,
    ) -> None:
        if heartbeat is not None and not heartbeat > 0:
            raise DeclarationError(f"LiveRouter(heartbeat={heartbeat!r}): above 0, or None")
        if not 0 < recheck <= 30:
            raise DeclarationError(f"LiveRouter(recheck={recheck!r}): above 0 and at most 30 s")
        options.setdefault("route_class", GuardedRoute)
        super().__init__(lifespan=self._run, **options)
        self.heartbeat = heartbeat
        self.feeds: list[FeedDeclaration] = []
        self._requires = requires
        self._live = Live(write_timeout=write_timeout, recheck=recheck, io_uring=io_uring)

    def install(self, app: FastAPI, *, prefix: str = "") -> None:
        """Put this router's routes into ``app``; errors become problems and OpenAPI is 3.2.

        Once for an application. Routes may be declared before or after.
        """
        app.include_router(self, prefix=prefix)
        find_quickly(app)
        cut_short(app)
        install_problems(app)
        app.openapi_version = "3.2.0"
        plain = app.openapi

        def openapi() -> dict[str, Any]:
            if not app.openapi_schema:
                app.openapi_schema = describe(plain(), app)
            return app.openapi_schema

        app.openapi = openapi  # type: ignore[method-assign]

    @property
    def hub(self) -> Hub:
        """The fan-out of the running event loop."""
        return self._live.hub

    @property
    def stats(self) -> Counters:
        """What was counted since the start: open streams, frames, resets and so on."""
        return self._live.counters

    async def recheck(self, subject: str | None = None) -> None:
        """Ask the rights of all streams of a subject again at once; of all streams for None.

        A stream that lost its right ends with an ``error`` event. ``subject`` is what a guard
        passed to ``identify``.
        """
        await self._live.leases.recheck(subject)

    async def drain(self, *, spread: float = 5.0) -> None:
        """Refuse new streams and end the open ones, over at most ``spread`` seconds."""
        await self._live.drain(spread)

    # Low level: sse= on a route

    def add_api_route(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        sse: bool | SSE | None = None,
        **options: Any,
    ) -> None:
        """As APIRouter's, and ``sse=True`` or ``sse=SSE(...)`` for a handler that streams."""
        if not sse:
            super().add_api_route(path, endpoint, **options)
            return
        settings = SSE() if sse is True else sse
        if not isinstance(settings, SSE):
            raise DeclarationError(f"{path}: sse={sse!r}: True or SSE(...) is needed")
        route = functools.partial(
            EventRoute, sse=settings, live=self._live, heartbeat=self.heartbeat
        )
        options["route_class_override"] = route
        if settings.kind == "only":
            options["response_model"] = None
        handler = take_stream(endpoint, path)
        super().add_api_route(path, handler, **options)
        methods = options.get("methods") or ["GET"]
        if "GET" in methods and settings.kind != "manual":
            hidden = {**options, "methods": ["HEAD"], "include_in_schema": False}
            super().add_api_route(path, handler, **hidden)

    def api_route(
        self, path: str, *, sse: bool | SSE | None = None, **options: Any
    ) -> Callable[[Handler], Handler]:
        """As APIRouter's, with ``sse=``."""

        def declare(endpoint: Handler) -> Handler:
            self.add_api_route(path, endpoint, sse=sse, **options)
            return endpoint

        return declare

    def get(
        self, path: str, *, sse: bool | SSE | None = None, **options: Any
    ) -> Callable[[Handler], Handler]:
        """As APIRouter's, with ``sse=``."""
        return self.api_route(path, sse=sse, methods=["GET"], **options)

    def post(
        self, path: str, *, sse: bool | SSE | None = None, **options: Any
    ) -> Callable[[Handler], Handler]:
        """As APIRouter's, with ``sse=``, for APIs that stream the answer to a POST."""
        return self.api_route(path, sse=sse, methods=["POST"], **options)

    # High level: feeds

    def feed(
        self,
        path: str,
        *,
        item: Any,
        collection: str = "items",
        event: str = "item",
        requires: Requirement = None,
        keyed: bool = False,
        limit: int = DEFAULT_LIMIT,
        retry: int = 2000,
        name: str | None = None,
        dependencies: Sequence[params.Depends] = (),
        **options: Any,
    ) -> Callable[[Handler], Handler]:
        """Declare a feed: ``GET {path}`` and ``GET {path}/stream``.

        The decorated function is given the request's own parameters and dependencies and returns
        the ``Source`` to show. It is asked again while a stream lives.

        Arguments:
            item: the pydantic model (or dataclass, or TypedDict) of one item.
            collection: the field of a page that holds the items.
            event: the name of an item's event.
            requires: a permission, a guard, or a list of these: all must let the caller pass.
            keyed: items replace earlier ones with the same key, and can leave.
            limit: items of a page unless the client says otherwise, 1 to 100.
            retry: milliseconds that clients wait before they reconnect.
            name: what positions are bound to; the path by default.
            options: as ``get`` takes them: tags, summary, deprecated and so on.
        """
        if not path.startswith("/") or path.endswith(("/", "/stream")):
            raise DeclarationError(
                f"feed {path!r}: a path such as '/logs' is needed; '/stream' is added by itself"
            )
        feed = Feed(
            name or path,
            collection=collection,
            event=event,
            encode=encoder_of(item, path),
            limit=limit,
            retry=retry,
        )
        declaration = FeedDeclaration(feed, item, keyed)
        guards = [*self._guards(requires, path), *dependencies]

        def declare(call: Handler) -> Handler:
            self.feeds.append(declaration)
            shared: dict[str, Any] = {
                "live": self._live,
                "heartbeat": self.heartbeat,
                "declaration": declaration,
            }
            both = {**options, "dependencies": guards}
            label = options.get("name") or call.__name__
            rest = functools.partial(FeedRoute, **shared)
            stream = functools.partial(FeedStreamRoute, **shared)
            model = page_model(item, declaration)
            for suffix, made, more in (
                ("", rest, {"response_model": model, "name": label}),
                ("/stream", stream, {"response_model": None, "name": f"{label}_stream"}),
            ):
                if options.get("operation_id"):
                    more["operation_id"] = options["operation_id"] + suffix.replace("/", "_")
                endpoint = planned(call, feed)
                extra = dict(options.get("openapi_extra") or {})
                extra["parameters"] = [
                    *extra.get("parameters", []),
                    *described(limit, stream=bool(suffix)),
                ]
                settings = {
                    **both,
                    **more,
                    "route_class_override": made,
                    "openapi_extra": extra,
                    "responses": {422: {}, **options.get("responses", {})},
                }
                super(LiveRouter, self).add_api_route(
                    path + suffix, endpoint, methods=["GET"], **settings
                )
                super(LiveRouter, self).add_api_route(
                    path + suffix,
                    endpoint,
                    methods=["HEAD"],
                    **{**settings, "include_in_schema": False},
                )
            return call

        return declare

    def _guards(self, requires: Requirement, path: str) -> list[params.Depends]:
        if requires is None:
            return []
        wanted = [requires] if isinstance(requires, (str, params.Depends)) else list(requires)
        made: list[params.Depends] = []
        for each in wanted:
            if isinstance(each, str):
                if self._requires is None:
                    raise DeclarationError(
                        f"feed {path!r}: requires={each!r} needs LiveRouter(requires=...), which "
                        "makes a guard of a permission"
                    )
                made.append(self._requires(each))
            elif isinstance(each, params.Depends):
                made.append(each if isinstance(each, Guard) else _guard_of(each, path))
            else:
                raise DeclarationError(
                    f"feed {path!r}: requires={each!r}: a permission, a guard or a list is needed"
                )
        return made

    @asynccontextmanager
    async def _run(self, app: Any) -> AsyncIterator[None]:
        if isinstance(app, FastAPI):
            make_routes(app)
        undo = self._live.drain_on_sigterm()
        try:
            yield
        finally:
            undo()
            await self._live.close()


def _guard_of(depends: params.Depends, path: str) -> params.Depends:
    if depends.dependency is None:
        raise DeclarationError(f"feed {path!r}: requires=Depends() names no dependency")
    made: params.Depends = guard(depends.dependency)
    return made
