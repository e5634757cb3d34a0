"""The short way to a stream's route: what FastAPI did for a path once, it need not do again.

Between an application's middleware and a route's handler stand a dozen layers: those that match
the path, stack upon stack for dependencies, and an error handler at two of them. A stream's route
takes its dependencies apart by itself and keeps nothing open, so for a path that came to it once
all that is left of them is what they wrote into the scope. Where a request is not like that, or an
application's routes have changed, it goes the long way.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import (
    APIRoute,
    APIRouter,
    APIWebSocketRoute,
    _EffectiveRouteContext,
    _IncludedRouter,
)
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["cut_short", "stands_alone"]

# The handler of a route that needs none of the layers around it, as it says itself in the scope.
_ALONE = "headwater.alone"
_ERROR = "headwater.error"
# Paths that are kept: those of satellites, teams and so on, each with its own parameters.
_MOST = 4096

# Routes that look at nothing but method and path.
_BY_PATH = {
    each.matches
    for each in (Route, APIRoute, Mount, WebSocketRoute, APIWebSocketRoute, _IncludedRouter)
}
# What is in a scope already when the application is itself part of another one.
_WITHIN = ("router", "path_params", "fastapi", "fastapi.telemetry")

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def cut_short(app: FastAPI) -> None:
    """Let requests for streams take the short way, once all middleware has seen them."""
    # The last of an application's own middleware is the innermost one.
    app.user_middleware.append(Middleware(_Shortcut, of=app))


def stands_alone(request: Request, handler: Handler) -> None:
    """A route's word, when it has answered, that ``handler`` is all that its path needs."""
    request.scope[_ALONE] = handler


@dataclass(frozen=True, slots=True)
class _Way:
    """What came of one path.

    Attributes:
        versions: the routers that were asked, each with its version and number of routes.
        found: what routing wrote into the scope.
    """

    handler: Handler
    versions: tuple[tuple[APIRouter, int, int], ...]
    found: dict[str, Any]
    params: dict[str, Any]
    inner: dict[str, Any]

    def holds(self) -> bool:
        """Whether the path still leads there."""
        for router, version, many in self.versions:
            if router._routes_version != version or len(router.routes) != many:
                return False
        return True


class _Shortcut:
    """ASGI middleware next to the framework's own layers."""

    def __init__(self, app: ASGIApp, of: FastAPI) -> None:
        self._app = app
        self._of = of
        self._ways: dict[tuple[str, str], _Way] = {}
        self._errors: ExceptionMiddleware | None = None
        if type(app) is ExceptionMiddleware:
            self._errors = copy.copy(app)
            self._errors.app = _raise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or self._errors is None:
            await self._app(scope, receive, send)
            return
        name = (scope.get("root_path", ""), scope["path"])
        way = self._ways.get(name)
        for each in _WITHIN:
            if each in scope:
                await self._app(scope, receive, send)
                return
        if way is None or not way.holds():
            await self._app(scope, receive, send)
            handler = scope.pop(_ALONE, None)
            if handler is not None:
                self._keep(name, handler, scope)
            return
        scope.update(way.found)
        scope["path_params"] = dict(way.params)
        scope["fastapi"] = dict(way.inner)
        try:
            response = await way.handler(Request(scope, receive, send))
        except Exception as error:
            scope[_ERROR] = error
            await self._errors(scope, receive, send)
            return
        finally:
            scope.pop(_ALONE, None)
        await response(scope, receive, send)

    def _keep(self, name: tuple[str, str], handler: Handler, scope: Scope) -> None:
        context = scope["fastapi"].get("effective_route_context")
        asked = _asked(self._of.router, context)
        if asked is None:
            return
        self._ways.pop(name, None)
        self._ways[name] = _Way(
            handler,
            tuple((router, router._routes_version, len(router.routes)) for router in asked),
            {key: scope[key] for key in ("router", "route", "endpoint")},
            dict(scope["path_params"]),
            dict(scope["fastapi"]),
        )
        if len(self._ways) > _MOST:
            del self._ways[next(iter(self._ways))]


async def _raise(scope: Scope, _receive: Receive, _send: Send) -> None:
    raise scope.pop(_ERROR)


def _asked(router: Any, context: Any) -> list[APIRouter] | None:
    """The routers that a path to this route depends on; None where more than the path counts."""
    plain = (
        type(router) is APIRouter
        and router.middleware_stack == router.app
        and isinstance(context, _EffectiveRouteContext)
        # Else it has a layer of its own, for the size of bodies.
        and isinstance(context.app, FunctionType)
    )
    if not plain:
        return None
    asked = [router]
    for route in router.routes:
        if type(route).matches not in _BY_PATH:
            return None
        if isinstance(route, _IncludedRouter):
            inner = list(_within(route.original_router))
            if any(type(each).matches not in _BY_PATH for one in inner for each in one.routes):
                return None
            asked += inner
            if any(context.original_route in one.routes for one in inner):
                return asked
    return None


def _within(router: APIRouter) -> Iterator[APIRouter]:
    yield router
    for route in router.routes:
        if isinstance(route, _IncludedRouter):
            yield from _within(route.original_router)
