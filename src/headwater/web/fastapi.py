"""Headwater for FastAPI: ``LiveRouter`` with ``sse=`` on routes and ``feed()``.

app = FastAPI()
live = LiveRouter()
app.include_router(live, prefix="/api")
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Literal, TypeVar, Unpack

from headwater.errors import DeclarationError, MissingExtraError

try:
    from fastapi import FastAPI, params
    from fastapi.routing import APIRoute
except ImportError as error:  # pragma: no cover - only without the extra
    raise MissingExtraError("fastapi", "fastapi") from error

from headwater.delivery._event_stream import EventStream
from headwater.eventlog import EventLog
from headwater.feeds._checks import check_kind
from headwater.feeds._feed import DEFAULT_LIMIT, MAX_ITEMS, Limit, OnInvalid
from headwater.feeds._source import Source
from headwater.protocol import Comment, Event
from headwater.runs import Busy, Run, Runs, SyncRun
from headwater.web._declared_sources import check_declared_source
from headwater.web._endpoints import feed_endpoint
from headwater.web._event_router import EventRouter
from headwater.web._fastapi_problems import install_problems
from headwater.web._feed_models import page_model
from headwater.web._guards import (
    BODY_FIELD,
    GuardedRoute,
    Requirement,
    check_dependencies,
    declared_dependencies,
    guard,
)
from headwater.web._identity import expires, identify
from headwater.web._inclusions import check_inclusions
from headwater.web._items import item_encoding
from headwater.web._live import SHARED, HubFace, Settings, Shared, declared_at
from headwater.web._live_route import LiveRoute
from headwater.web._openapi import feed_options, install_openapi, with_own
from headwater.web._pair import (
    FeedDeclaration,
    FeedHalf,
    PageHalf,
    StreamHalf,
    declared_feed,
)
from headwater.web._query_parameters import check_paging_parameters
from headwater.web._route_options import FeedOptions, check_feed_options
from headwater.web._run_declaration import RunEndpoints
from headwater.web._run_item import FEED
from headwater.web._run_setup import OnDisconnect, RunDeclaration, lifespan_of_runs
from headwater.web._stream_info import StreamInfo, TailInfo
from headwater.web._stream_limits import StreamLimits
from headwater.web.asgi import SSE
from headwater.web.problems import Problem

__all__ = [
    "SSE",
    "Comment",
    "Event",
    "EventStream",
    "GuardedRoute",
    "LiveRouter",
    "Problem",
    "Run",
    "Runs",
    "Source",
    "StreamInfo",
    "StreamLimits",
    "SyncRun",
    "TailInfo",
    "expires",
    "guard",
    "identify",
]

FeedHandler = TypeVar("FeedHandler", bound=Callable[..., Source] | Callable[..., Awaitable[Source]])
RunFunction = TypeVar("RunFunction", bound=Callable[..., Any])


class LiveRouter(HubFace, EventRouter):
    """A router whose routes can stream and whose feeds are pairs.

    It is an ``APIRouter``: include it in an application or in a router of yours, as by
    ``app.include_router(live, prefix="/api")``. The routers of one event loop share one hub. A
    setting that is ``"shared"`` is left to the routers that name it; two that name different values
    are an error.

    Arguments:
        requires: makes the guard of a permission, for ``feed(..., requires="logs.view")``.
        heartbeat: seconds of silence after which streams are sent a comment; None for none. 30 s
            unless a router names it: below the idle time-outs of common proxies.
        recheck: seconds between two checks of a stream's rights, at most 30; 25 by default.
        write_timeout: seconds after which a peer that takes no bytes is dropped; 30 by default.
        io_uring: write to many streams in one system call, where Linux offers that to the process
            and ``headwater.web.uvicorn:Protocol`` the connections. Else each gets a ``write()``.
        log: the event log by which ``recheck`` reaches the other processes.
        limits: how many streams and waiting polls a caller, an address and all may have; 50, 200
            and no limit by default. Above it a stream gets the time to come back, a poll gets 429.
            Also the bytes of a page, and of what clients do not take.
        options: as APIRouter takes them: prefix, tags, dependencies and so on.
    """

    def __init__(
        self,
        *,
        requires: Callable[[str], Any] | None = None,
        heartbeat: float | Shared | None = SHARED,
        recheck: float | Shared = SHARED,
        write_timeout: float | Shared = SHARED,
        io_uring: bool | Shared = SHARED,
        log: EventLog | Shared = SHARED,
        limits: StreamLimits | Shared = SHARED,
        **options: Any,
    ) -> None:
        where = declared_at("LiveRouter()")
        if requires is not None and not callable(requires):
            raise DeclarationError(
                f"{where}: requires={requires!r}: write a function that makes the guard of a "
                "permission"
            )
        check_dependencies(where, options.get("dependencies") or ())
        settings = Settings(
            where,
            heartbeat=heartbeat,
            recheck=recheck,
            write_timeout=write_timeout,
            io_uring=io_uring,
            log=log,
            limits=limits,
        )
        # FastAPI copies a route by its class when it includes it.
        options["route_class"] = _route_class(options.get("route_class", LiveRoute), where)
        own = options.pop("lifespan", None) or (lambda _: nullcontext())
        super().__init__(settings, lifespan=self._lifespan(own), **options)
        self.feeds: list[FeedDeclaration] = []
        self.runs: list[Runs] = []
        self._requires = requires

    def install(
        self,
        app: FastAPI,
        *,
        problems: Literal["own", "application"] = "own",
        openapi: Literal["3.2"] | None = None,
    ) -> None:
        """Change the whole application: how it answers errors, and its OpenAPI version.

        Arguments:
            problems: ``"own"``: the routes of LiveRouters answer their errors as problems, which
                they do by themselves. ``"application"``: so does every route of ``app``, but for
                the errors that it has a handler for.
            openapi: ``"3.2"``: the document describes streams with an ``itemSchema``. By default
                it stays what the application has.
        """
        check_kind(f"install({app!r})", app, FastAPI, "a FastAPI application")
        if problems not in ("own", "application"):
            raise DeclarationError(f"install(problems={problems!r}): write 'own' or 'application'")
        if openapi not in (None, "3.2"):
            raise DeclarationError(f"install(openapi={openapi!r}): write '3.2' or None")
        if problems == "application":
            install_problems(app)
        if problems == "application" or openapi == "3.2":
            install_openapi(app, item_schemas=openapi == "3.2", problems=problems == "application")

    def feed(
        self,
        path: str,
        *,
        item: Any,
        collection: str = "items",
        event: str = "item",
        requires: Requirement = None,
        keyed: bool = False,
        limit: Limit = DEFAULT_LIMIT,
        max_items: int = MAX_ITEMS,
        retry: int = 2000,
        on_invalid: OnInvalid = "hold",
        envelope: Mapping[str, Any] | None = None,
        name: str | None = None,
        dependencies: Sequence[params.Depends] = (),
        **options: Unpack[FeedOptions],
    ) -> Callable[[FeedHandler], FeedHandler]:
        """Declare a feed: ``GET {path}`` and ``GET {path}/stream``.

        The decorated function is given the request's own parameters and dependencies and returns
        the ``Source`` to show. It runs again while a stream is open.

        Arguments:
            path: such as ``"/logs"``; ``""`` where the router has a prefix.
            item: the pydantic model (or dataclass, or TypedDict) of one item. Or an async function
                that makes a list of such items of a list of rows, called once for each batch.
            collection: the field of a page that holds the items.
            event: the name of an item's event.
            requires: a permission, a guard, or a list of these: all must let the caller pass.
            keyed: items replace earlier ones with the same key, and can leave.
            limit: items of a page unless the client says otherwise, 1 to 100. ``"all"``, for a
                keyed feed: a new client is sent all items, the first 100 as its snapshot and the
                others as events that follow it.
            max_items: with ``limit="all"``, the most items that a new client is sent. If there are
                more, its stream ends with an ``error`` event of status 413.
            retry: milliseconds that clients wait before they reconnect.
            on_invalid: what becomes of an item that does not fit its model. ``"hold"``: the feed
                waits there until it is mended. ``"skip"``: pages and streams leave it out; it is
                logged and counted.
            envelope: a JSON object around each page, item and removal, with ``...`` in the place of
                these: ``{"success": True, "data": ...}``. Errors and resets have none.
            name: what positions are bound to; the path by default.
            options: as ``get`` takes them: tags, summary, deprecated and so on.
        """
        check_feed_options(f"feed {path!r}", options)
        declaration = declared_feed(
            path,
            name,
            keyed,
            item_encoding(item),
            [getattr(route, "path", "") for route in self.routes],
            self.prefix,
            collection=collection,
            event=event,
            limit=limit,
            max_items=max_items,
            retry=retry,
            on_invalid=on_invalid,
            envelope=envelope,
        )
        feed = declaration.feed
        guards = declared_dependencies(requires, dependencies, self._requires, path)

        def declare(call: FeedHandler) -> FeedHandler:
            own = [*self.dependencies, *guards]
            check_paging_parameters(feed.name, self.prefix + path, call, own)
            check_declared_source(declaration, call)
            self.feeds.append(declaration)
            page = page_model(declaration)
            halves: list[type[FeedHalf]] = [PageHalf, StreamHalf]
            if path.endswith(":path}"):
                # Such a parameter would take the end of the stream's path, too.
                halves.reverse()
            for kind in halves:
                half = kind(declaration, self._settings)
                name = getattr(call, "__name__", "feed") + half.suffix.replace("/", "_")
                made = {"name": name, "dependencies": guards}
                made |= feed_options(half, page, options, guarded=bool(guards))
                self._add(path + half.suffix, feed_endpoint(call, half), ["GET"], made)
            if getattr(self.routes[-1], BODY_FIELD, None) is not None:
                raise DeclarationError(
                    f"feed {feed.name!r}: its routes are GET and have no body: declare a model of "
                    "its parameters as `Annotated[Model, Query()]`"
                )
            return call

        return declare

    def run(
        self,
        path: str,
        runs: Runs,
        *,
        owner: Any,
        group: str | None = None,
        busy: Busy = "allow",
        start: Callable[[str], Any] | None = None,
        on_disconnect: OnDisconnect = "continue",
        max_body: int = 256 * 1024,
        requires: Requirement = None,
        name: str | None = None,
        dependencies: Sequence[params.Depends] = (),
        **options: Unpack[FeedOptions],
    ) -> Callable[[RunFunction], RunFunction]:
        """Declare runs: the routes to start, follow, cancel, list and delete them.

        The decorated function produces a run: ``async def f(run: Run, ...)`` in the event loop, or
        ``def f(run: SyncRun, ...)`` in a thread. It begins after the request is answered, so the
        dependencies that it takes are closed by then.

        Arguments:
            path: such as ``"/answers"``.
            owner: a dependency that gives the id of the caller, whose run it then is. Others get
                404.
            group: a field of the body: runs with the same value belong together.
            busy: what becomes of a start while a run of its group is active: ``"reject"`` (409),
                ``"cancel"`` that one, ``"queue"`` behind it, or ``"allow"`` both.
            start: gives a run's id to a queue, whose worker calls ``runs.attempt(run_id)``. The
                function then only returns what the worker finds in ``run.input``; None for the
                request's body.
            on_disconnect: ``"cancel"`` cancels a run whose last client in this process has left.
            max_body: bytes of a request's body.
            requires: as for ``feed``.
            name: what the runs are kept under; the path by default.
            options: as ``get`` takes them: tags, summary, deprecated and so on.
        """
        declaration = RunDeclaration(
            runs, name or self.prefix + path, group, busy, max_body, on_disconnect, start
        )
        guards = declared_dependencies(requires, dependencies, self._requires, path)

        def declare(call: RunFunction) -> RunFunction:
            endpoints = RunEndpoints(declaration, call, owner, self._settings)
            declaration.claim(call)
            if runs not in self.runs:
                self.runs.append(runs)
            own = [endpoints.guard, *guards, *endpoints.path_parameters(self.prefix + path)]
            listed = with_own(FEED, options, "_list")
            self.feed(path, name=declaration.kind, dependencies=own, **listed)(endpoints.list())
            for route, endpoint, made in endpoints.routes(options):
                made["dependencies"] = own
                self._add(path + route.suffix, endpoint, [route.method], made)
            return call

        return declare

    def _lifespan(self, own: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @asynccontextmanager
        async def run(app: Any) -> AsyncIterator[Any]:
            if hasattr(app, "routes"):
                own_routes = (each for each in self.routes if isinstance(each, APIRoute))
                check_inclusions(app, [each.endpoint for each in own_routes])
            hub = self._settings.lifespan(app)
            async with hub, lifespan_of_runs(self.runs, self._settings), own(app) as state:
                yield state

        return run


def _route_class(wanted: type[Any], where: str) -> type[Any]:
    if not isinstance(wanted, type) or not issubclass(wanted, APIRoute):
        raise DeclarationError(f"{where}: route_class={wanted!r}: write a class of APIRoute")
    if issubclass(wanted, LiveRoute):
        return wanted
    if issubclass(LiveRoute, wanted):
        return LiveRoute
    # The user's class is around ours, as it is around every other route.
    return type(wanted.__name__, (wanted, LiveRoute), {})
