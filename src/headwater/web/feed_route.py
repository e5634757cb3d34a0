"""The two halves of a feed in FastAPI, made of one declaration."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fastapi import Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError

from headwater.errors import DeclarationError
from headwater.web.asgi import Scope
from headwater.web.guards import subjects
from headwater.web.live import Settings
from headwater.web.live_route import Call, set_half
from headwater.web.negotiation import accept_of, accepts_event_stream, not_acceptable
from headwater.web.paging import NAMES, Paging, read_paging
from headwater.web.pair import Asked, FeedDeclaration, PageHalf, StreamHalf
from headwater.web.plan import Plan, dependency_response
from headwater.web.rights import CHANGED, Verdict
from headwater.web.signatures import parameters_of

__all__ = ["FeedHalf", "feed_endpoint"]

_RESPONSE = "headwater_response"


class FeedHalf:
    """One half of a feed as a FastAPI route answers it."""

    def __init__(self, half: PageHalf | StreamHalf, settings: Settings) -> None:
        self.half = half
        self.common: dict[str, Any] = {}
        self._settings = settings

    @property
    def declaration(self) -> FeedDeclaration:
        return self.half.declaration

    async def serve(self, call: Call) -> None:
        """Ask FastAPI for the source, then answer."""
        live = self._settings.live()
        rechecks = live.rights.rechecks
        paging = self._paging(call.scope)
        try:
            plan = await call.plan()
        except RequestValidationError as error:
            raise RequestValidationError([*error.errors(), *paging.errors]) from error
        if plan is None:
            return
        if self.half.streams and not accepts_event_stream(accept_of(call.scope)):
            raise not_acceptable(call.scope["path"])
        if paging.errors:
            raise RequestValidationError(paging.errors)
        source = plan.result
        identity, again = source.identity, call.recheck

        async def recheck() -> Verdict:
            verdict, found = await again()
            if verdict is None and found is not None and found.identity != identity:
                return CHANGED
            return verdict

        asked = Asked(
            call.scope,
            call.receive,
            call.send,
            source,
            paging,
            plan.dependency_headers,
            (id(self), identity, again.remembered.name),
            recheck,
            subjects(call.scope),
            rechecks,
        )
        await self.half.answer(live, asked)
        if plan.background is not None:
            await plan.background()

    def _paging(self, scope: Scope) -> Paging:
        limit = self.declaration.feed.limit
        return read_paging(scope.get("query_string", b""), limit, stream=self.half.streams)


def feed_endpoint(
    call: Callable[..., Any], half: PageHalf | StreamHalf, settings: Settings
) -> Callable[..., Any]:
    """The feed's function as FastAPI shall see it: it returns a plan with the source."""
    declaration = half.declaration
    name = declaration.feed.name
    own = parameters_of(call, f"feed {name!r}")
    for taken in NAMES:
        if taken in own:
            raise DeclarationError(
                f"feed {name!r}: its handler may not have a parameter {taken!r}; every feed "
                f"has {', '.join(NAMES)} by itself"
            )
    is_coroutine = inspect.iscoroutinefunction(call)

    @functools.wraps(call)
    async def endpoint(**values: Any) -> Any:
        response: Response = values.pop(_RESPONSE)
        found = await call(**values) if is_coroutine else await run_in_threadpool(call, **values)
        return Plan(declaration.accept(found), response)

    del endpoint.__wrapped__
    endpoint.__annotations__ = {}
    keyword = inspect.Parameter.KEYWORD_ONLY
    endpoint.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*own.values(), inspect.Parameter(_RESPONSE, keyword, annotation=dependency_response)],
        return_annotation=Response,
    )
    set_half(endpoint, FeedHalf(half, settings))
    return endpoint
