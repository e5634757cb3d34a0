"""Headwater for Starlette alone: a pair is two Starlette routes, a guard is a plain function.

live = LiveRoutes()
...  # the routes
app = Starlette(routes=[Mount("/api", routes=live.routes)], lifespan=live.lifespan)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from headwater.errors import DeclarationError, MissingExtraError

try:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
except ImportError as error:  # pragma: no cover - only without the extra
    raise MissingExtraError("fastapi", "starlette") from error

from headwater.delivery._event_stream import EventStream
from headwater.eventlog import EventLog
from headwater.feeds._checks import check_kind
from headwater.feeds._feed import DEFAULT_LIMIT, MAX_ITEMS, Limit, OnInvalid
from headwater.feeds._source import Source
from headwater.protocol import Comment, Event
from headwater.runs import Busy, Run, Runs, SyncRun
from headwater.web._identity import expires, identify
from headwater.web._live import SHARED, HubFace, Settings, Shared, declared_at
from headwater.web._pair import PageHalf, StreamHalf, declared_feed
from headwater.web._responders import BEGIN, STREAM, EventResponder, Responder
from headwater.web._run_setup import OnDisconnect, RunDeclaration, lifespan_of_runs
from headwater.web._starlette_endpoint import Guard, StarletteEndpoint
from headwater.web._stream_info import StreamInfo, TailInfo
from headwater.web._stream_limits import StreamLimits
from headwater.web._user_functions import as_coroutine, is_coroutine_function
from headwater.web.asgi import SSE
from headwater.web.problems import Problem

__all__ = [
    "SSE",
    "Comment",
    "Event",
    "EventStream",
    "LiveRoutes",
    "Problem",
    "Run",
    "Runs",
    "Source",
    "StreamInfo",
    "StreamLimits",
    "SyncRun",
    "TailInfo",
    "expires",
    "identify",
]

FeedFunction = TypeVar(
    "FeedFunction",
    bound=Callable[[Request], Source] | Callable[[Request], Awaitable[Source]],
)
RunFunction = TypeVar("RunFunction", bound=Callable[..., Any])
StreamFunction = TypeVar("StreamFunction", bound=Callable[[Request, Any], Awaitable[Any]])


class LiveRoutes(HubFace):
    """Starlette routes that stream, and feeds that are pairs of them.

    Its arguments are those of ``LiveRouter`` of the same names, and mean the same.

    Attributes:
        routes: for ``Starlette(routes=...)`` or ``Mount(routes=...)``, which copy the list: declare
            all routes before that.
        runs: those that its routes serve.
    """

    def __init__(
        self,
        *,
        heartbeat: float | Shared | None = SHARED,
        recheck: float | Shared = SHARED,
        write_timeout: float | Shared = SHARED,
        io_uring: bool | Shared = SHARED,
        log: EventLog | Shared = SHARED,
        limits: StreamLimits | Shared = SHARED,
    ) -> None:
        self._settings = Settings(
            declared_at("LiveRoutes()"),
            heartbeat=heartbeat,
            recheck=recheck,
            write_timeout=write_timeout,
            io_uring=io_uring,
            log=log,
            limits=limits,
        )
        self.routes: list[Route] = []
        self.runs: list[Runs] = []

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """For ``Starlette(lifespan=...)``, or to be entered in a lifespan of yours."""
        async with self._settings.lifespan(app), lifespan_of_runs(self.runs, self._settings):
            yield

    def feed(
        self,
        path: str,
        *,
        item: Any = None,
        collection: str = "items",
        event: str = "item",
        guards: Sequence[Guard] = (),
        keyed: bool = False,
        limit: Limit = DEFAULT_LIMIT,
        max_items: int = MAX_ITEMS,
        retry: int = 2000,
        on_invalid: OnInvalid = "hold",
        envelope: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> Callable[[FeedFunction], FeedFunction]:
        """Declare a feed: ``GET {path}`` and ``GET {path}/stream``.

        The decorated function is given the request and returns the ``Source`` to show. It runs
        again while a stream is open, after its guards.

        Arguments:
            item: the pydantic model of one item, or an async function that makes a list of such
                items of a list of rows; by default an item is sent as the source has it.
            guards: functions of the request, called before its parameters are checked. They
                raise HTTPException or Problem for a caller that may not pass.
            name: what positions are bound to; the path by default.

        The others are as for ``LiveRouter.feed``.
        """
        encoded: tuple[Any, dict[str, Any]] = (None, {})
        if item is not None:
            from headwater.web._items import item_encoding

            encoded = item_encoding(item)
        declaration = declared_feed(
            path,
            name,
            keyed,
            encoded,
            [route.path for route in self.routes],
            collection=collection,
            event=event,
            limit=limit,
            max_items=max_items,
            retry=retry,
            on_invalid=on_invalid,
            envelope=envelope,
        )

        def declare(call: FeedFunction) -> FeedFunction:
            run = as_coroutine(call)

            async def source(request: Request) -> Source:
                return declaration.accept(await run(request))

            for half in (PageHalf, StreamHalf):
                responder = half(declaration, self._settings)
                self._add(path + half.suffix, ["GET"], responder, guards, source)
            return call

        return declare

    def run(
        self,
        path: str,
        runs: Runs,
        *,
        owner: Callable[[Request], Any],
        body: type[Any] | None = None,
        guards: Sequence[Guard] = (),
        group: str | None = None,
        busy: Busy = "allow",
        start: Callable[[str], Any] | None = None,
        on_disconnect: OnDisconnect = "continue",
        max_body: int = 256 * 1024,
        name: str | None = None,
    ) -> Callable[[RunFunction], RunFunction]:
        """Declare runs: the routes to start, follow, cancel, list and delete them.

        The decorated function produces a run: ``async def f(run: Run, request)`` in the event loop,
        or ``def f(run: SyncRun, request)`` in a thread. It begins after the request is answered.
        ``run.input`` is the body. With ``start=`` the function is given the request alone and
        returns what the worker finds in ``run.input``; None for the body.

        Arguments:
            owner: a function of the request that gives the id of the caller. It may be a coroutine,
                and raises HTTPException or Problem for one who may not pass.
            body: the pydantic model of the body. Others get 422. By default it is any JSON.
            guards: as for ``feed``.

        The others are as for ``LiveRouter.run``.
        """
        from headwater.web._run_item import FEED
        from headwater.web._run_routes import ROUTES, StartRoute
        from headwater.web._starlette_runs import RunCalls

        declaration = RunDeclaration(
            runs, name or path, group, busy, max_body, on_disconnect, start
        )

        def declare(call: RunFunction) -> RunFunction:
            calls = RunCalls(declaration, call, owner, body)
            declaration.claim(call)
            if runs not in self.runs:
                self.runs.append(runs)
            self.feed(path, guards=guards, name=declaration.kind, **FEED)(calls.listed)
            for route in ROUTES:
                plan = calls.start if route is StartRoute else calls.known
                responder = route(declaration, self._settings)
                self._add(path + route.suffix, [route.method], responder, guards, plan)
            return call

        return declare

    def stream(
        self,
        path: str,
        *,
        sse: SSE | None = None,
        guards: Sequence[Guard] = (),
        methods: Sequence[str] = ("GET",),
    ) -> Callable[[StreamFunction], StreamFunction]:
        """Declare a route that streams: the function is given the request and the stream.

        With ``SSE(kind="dual")`` the stream is None where JSON is asked for, and the function
        returns a Starlette response; so it may with ``kind="manual"``.
        """
        options = SSE() if sse is None else sse
        check_kind(f"{path}: sse={sse!r}", options, SSE, "SSE(...)")

        def declare(call: StreamFunction) -> StreamFunction:
            handler: Callable[[Request, Any], Awaitable[Any]] = call
            if not is_coroutine_function(handler):
                raise DeclarationError(f"{path}: a function that streams must be `async def`")

            async def run(request: Request) -> Any:
                stream = request.scope.get(STREAM)
                if stream is not None:
                    request.scope[BEGIN]()
                found = await handler(request, stream)
                unsent = stream is None or (
                    found is not None and stream.is_connected and not stream.committed
                )
                if unsent and not isinstance(found, Response):
                    raise DeclarationError(
                        f"{path}: its function returned {type(found).__name__} and sent nothing: "
                        "call `await stream.send(...)`, or return a Starlette response"
                    )
                return found

            self._add(path, methods, EventResponder(options, self._settings), guards, run)
            return call

        return declare

    def _add(
        self,
        path: str,
        methods: Sequence[str],
        responder: Responder,
        guards: Sequence[Guard],
        call: Callable[[Request], Awaitable[Any]],
    ) -> None:
        endpoint = StarletteEndpoint(responder, guards, call)
        self.routes.append(Route(path, endpoint, methods=list(methods)))
