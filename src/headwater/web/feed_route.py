"""The two routes of a feed, made of one declaration."""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from headwater.delivery.feed_stream import FeedStream, open_feed
from headwater.delivery.heartbeat import heartbeat_event
from headwater.errors import DeclarationError, PositionError
from headwater.feeds.feed import Feed
from headwater.feeds.source import Place, Source
from headwater.web.asgi import Connection, last_event_id
from headwater.web.event_route import HoldResponse, head_of_stream, not_acceptable
from headwater.web.guards import GuardedRoute, Guards, Handler, _empty_response, _stacks, subjects
from headwater.web.leases import CHANGED, Verdict
from headwater.web.live import CommonScopes, Live, Renewed, renewed_request, verdict_of
from headwater.web.negotiation import accepts_event_stream
from headwater.web.paging import NAMES, Paging, read_paging, read_query
from headwater.web.shortcut import stands_alone
from headwater.web.signatures import parameters_of
from headwater.web.steps import Steps

__all__ = ["FeedDeclaration", "FeedRoute", "FeedStreamRoute", "planned"]


@dataclass(frozen=True, slots=True, eq=False)
class FeedDeclaration:
    """What both routes of a feed have in common.

    Attributes:
        feed: names and encoding.
        item: the pydantic model of one item.
        keyed: items replace earlier ones with the same key, and can leave.
    """

    feed: Feed
    item: Any
    keyed: bool


@dataclass(slots=True)
class _Asked:
    """What a request asks of a feed."""

    source: Source
    paging: Paging
    background: BackgroundTask | None


@dataclass(slots=True, eq=False)
class _Call:
    """One request on its way to an answer.

    Attributes:
        asked: what its plan came to.
        extra: headers that guards and dependencies have set.
        plan: plans a request; to ask the rights again.
        state: what ``request.state`` held before any guard.
        doubts: as ``Leases`` had it before any guard.
    """

    request: Request
    asked: _Asked
    extra: Response
    plan: Callable[[Request, Response], Awaitable[_Asked]]
    state: dict[str, Any]
    doubts: int


class _Check:
    """Asks a stream's rights again. It is kept for as long as the stream lives."""

    __slots__ = ("_again", "_identity", "_plan")

    def __init__(
        self,
        plan: Callable[[Request, Response], Awaitable[_Asked]],
        identity: Hashable,
        again: Renewed,
    ) -> None:
        self._plan = plan
        self._identity = identity
        self._again = again

    async def __call__(self) -> Verdict:
        try:
            now = await self._plan(self._again(), _empty_response())
        except HTTPException as error:
            return verdict_of(error)
        return None if now.source.identity == self._identity else CHANGED


class _Plan(Response):
    """What the endpoint returns: the answer is made once its dependencies have been released."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source


def planned(call: Callable[..., Any], feed: Feed) -> Callable[..., Any]:
    """The feed's handler as FastAPI shall see it."""
    own = parameters_of(call, f"feed {feed.name!r}")
    for name in NAMES:
        if name in own:
            raise DeclarationError(
                f"feed {feed.name!r}: its handler may not have a parameter {name!r}; every feed "
                f"has {', '.join(NAMES)} by itself"
            )
    is_coroutine = inspect.iscoroutinefunction(call)

    async def sourced(**values: Any) -> Source:
        source = await call(**values) if is_coroutine else await run_in_threadpool(call, **values)
        if not isinstance(source, Source):
            raise DeclarationError(
                f"feed {feed.name!r}: its handler returned {type(source).__name__}; a Source is "
                "needed, such as Table(...).where(...), log.topic(...) or Poll(...)(...)"
            )
        return source

    @functools.wraps(call)
    async def endpoint(**values: Any) -> Any:
        return _Plan(await sourced(**values))

    del endpoint.__wrapped__
    endpoint.sourced = sourced  # type: ignore[attr-defined]
    endpoint.__annotations__ = {}
    endpoint.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        list(own.values()), return_annotation=Response
    )
    return endpoint


class _Half(GuardedRoute):
    """What both halves share: the guards, and a plan whose dependencies are released."""

    is_stream = False

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        declaration: FeedDeclaration,
        live: Live,
        heartbeat: float | None,
        **options: Any,
    ) -> None:
        self.declaration = declaration
        self._live = live
        self._heartbeat = heartbeat
        super().__init__(path, endpoint, **options)

    def wrap(
        self, handler: Handler, guards: Guards, dependant: Dependant, overrides: Any
    ) -> Handler:
        feed = self.declaration.feed
        sourced = copy.copy(dependant)
        sourced.call = dependant.call.sourced  # type: ignore[union-attr]
        steps = Steps.of(guards.solved, [sourced])

        async def planning(request: Request, extra: Response) -> _Asked:
            read_query(request)
            run = None if steps is None else steps.begin(request, extra, overrides)
            if run is None:
                return await planning_by_framework(request, extra)
            await run.phase(0)
            paging = read_paging(request, feed.limit, stream=self.is_stream)
            return asked(await run.phase(1), paging, None)

        async def planning_by_framework(request: Request, extra: Response) -> _Asked:
            await guards.solve(request, extra, overrides)
            paging = read_paging(request, feed.limit, stream=self.is_stream)
            try:
                async with AsyncExitStack() as stack:
                    with _stacks(request, stack):
                        plan = await handler(request)
            except RequestValidationError as error:
                if paging.errors:
                    raise RequestValidationError([*error.errors(), *paging.errors]) from error
                raise
            assert isinstance(plan, _Plan)
            extra.headers.raw.extend(
                pair for pair in plan.raw_headers if pair[0] != b"content-length"
            )
            return asked(plan.source, paging, plan.background)

        def asked(source: Source, paging: Paging, background: BackgroundTask | None) -> _Asked:
            if paging.errors:
                raise RequestValidationError(paging.errors)
            if source.keyed and not self.declaration.keyed:
                raise DeclarationError(
                    f"feed {feed.name!r}: its source is keyed; declare it with "
                    "feed(..., keyed=True)"
                )
            return _Asked(source, paging, background)

        async def answer(request: Request) -> Response:
            state = dict(request.scope.get("state") or {})
            doubts = self._live.leases.doubts
            extra = _empty_response()
            asked = await planning(request, extra)
            response = await self.answer(_Call(request, asked, extra, planning, state, doubts))
            if steps is not None and isinstance(response, HoldResponse):
                stands_alone(request, answer)
            return response

        return answer

    @abstractmethod
    async def answer(self, call: _Call) -> Response:
        """What the half answers."""

    async def _place(self, source: Source, token: str) -> tuple[Place, str]:
        """The place of a token, and its epoch."""
        position = self.declaration.feed.parse(token)
        return await source.locate(position.epoch, position.place), position.epoch


# Answers whose tag is remembered, for each feed.
_REMEMBERED = 4096


class FeedRoute(_Half):
    """The REST half: ``GET /api/{resource}/{action}``."""

    def __init__(self, *given: Any, **options: Any) -> None:
        self._remembered: dict[Hashable, tuple[Hashable, str]] = {}
        super().__init__(*given, **options)

    async def answer(self, call: _Call) -> Response:
        request, asked, extra = call.request, call.asked, call.extra
        source, paging = asked.source, asked.paging
        held = request.headers.get("if-none-match")
        body, tag = b"", ""
        revision: Hashable | None = None
        if held is not None and not paging.wait:
            # A client that polls has the answer already, most of the time.
            revision = await source.revision()
        name = (source.identity, paging.limit, paging.after, paging.before)
        if revision is not None:
            then, tag = self._remembered.get(name, (None, ""))
            if then != revision or not _matches(held, tag):
                tag = ""
        if not tag:
            body, tag = await self._read(source, paging)
            if revision is not None:
                self._remember(name, revision, tag)
        if _matches(held, tag):
            response = Response(status_code=304)
        else:
            response = Response(body, media_type="application/json")
        response.headers.raw.extend([(b"etag", tag.encode()), *extra.raw_headers])
        # What a user may see is not for shared caches, and is out of date at once.
        response.headers.setdefault("cache-control", "private, no-cache")
        response.background = asked.background
        return response

    def _remember(self, name: Hashable, revision: Hashable, tag: str) -> None:
        known = self._remembered
        known.pop(name, None)
        known[name] = (revision, tag)
        if len(known) > _REMEMBERED:
            del known[next(iter(known))]

    async def _read(self, source: Source, paging: Paging) -> tuple[bytes, str]:
        """The page and its tag."""
        feed = self.declaration.feed
        token = paging.after if paging.before is None else paging.before
        if token is not None:
            place, epoch = await self._place(source, token)
            if paging.before is not None:
                page = await source.page(paging.limit, before=place)
            elif paging.wait:
                page = await self._live.hub.wait(source, place, paging.wait, paging.limit)
            else:
                page = await source.page(paging.limit, after=place)
            if page.epoch != epoch:
                # The storage was replaced meanwhile.
                raise PositionError(token, "unknown")
        else:
            page = await source.page(paging.limit)
            if paging.wait and not page.changes:
                await self._live.hub.wait(source, page.end, paging.wait, paging.limit)
                page = await source.page(paging.limit)
        removals = source.keyed and paging.after is not None
        body = feed.body(page, removals=removals)
        # One position is that of different bodies: what callers may see differs, and may change.
        digest = hashlib.blake2s(body, digest_size=8).hexdigest()
        return body, f'"{feed.position(page.epoch, page.end)}.{digest}.{paging.limit}"'


class FeedStreamRoute(_Half):
    """The SSE half: ``GET /api/{resource}/{action}/stream``."""

    is_stream = True

    def __init__(self, *given: Any, **options: Any) -> None:
        self._common: CommonScopes = {}
        super().__init__(*given, **options)

    async def answer(self, call: _Call) -> Response:
        request, asked, extra = call.request, call.asked, call.extra
        if not accepts_event_stream(request.headers.get("accept")):
            raise not_acceptable(request.url.path)
        if request.method == "HEAD":
            return head_of_stream(extra)
        self._live.refuse_while_draining()
        source, paging = asked.source, asked.paging
        resume = last_event_id(request.scope) or paging.after
        before: Place | None = None
        if resume is None and paging.before is not None:
            try:
                before, _ = await self._place(source, paging.before)
            except PositionError:
                # What cannot be resumed is answered in the stream, as for every other position.
                resume = paging.before
        hub = self._live.hub
        again, name = renewed_request(request, call.state, self._common)
        channel = await hub.hold(self.declaration.feed, source)
        try:
            opening = await open_feed(channel, limit=paging.limit, resume=resume, before=before)
            connection = Connection(request.scope, request.receive, request._send, held=True)
            stream = FeedStream(
                connection.sender,
                hub.streams,
                channel,
                limit=paging.limit,
                heartbeat=self._heartbeat,
            )
            if read_query(request).get("heartbeat") == "event":
                stream.pulse = heartbeat_event(self.declaration.feed.event, self._heartbeat)
            stream.headers = extra.raw_headers
            stream.begin(opening)
        finally:
            hub.release(channel)
        identity = source.identity
        self._live.leases.hold(
            stream,
            (self.path, identity, name),
            _Check(call.plan, identity, again),
            subjects(request.scope),
            call.doubts,
        )
        return HoldResponse(connection, stream, asked.background)


def _matches(header: str | None, tag: str) -> bool:
    """RFC 9110, 13.1.2: weak comparison, a list or ``*``."""
    if header is None:
        return False
    known = [part.strip().removeprefix("W/") for part in header.split(",")]
    return tag in known or "*" in known
