"""The route of our endpoints in FastAPI: it answers after FastAPI has finished.

``handle`` lets FastAPI run the endpoint and close its dependencies; then the endpoint's responder
answers. To check a right again it runs the same route on a copy of the request.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from headwater.web._fastapi_problems import own_problem
from headwater.web._guards import GuardedRoute, guards_of, takes_body
from headwater.web._plan import Plan
from headwater.web._responders import PLAN, Call, Handle, Responder
from headwater.web.asgi import Receive, Scope, Send, Sending
from headwater.web.problems import serve_with_problems

_RESPONDER = "headwater_responder"
# What else is wrong with a request, in its scope.
_ERRORS = "headwater.errors"
_ALLOWED = "headwater_allowed"
# Starlette keeps an application's error handlers under this key, and catches errors with them
# around each route and again around all routes. Without the key the route does not catch them. If
# Starlette names the key otherwise, the application's handlers answer the errors of our routes.
_HANDLERS = "starlette.exception_handlers"


class _Call(Call):
    """One request on its way through a route."""

    def __init__(
        self, route: LiveRoute, handle: Handle, scope: Scope, receive: Receive, send: Sending
    ) -> None:
        again: Handle | None = handle
        if takes_body(route):
            # The body will be gone, so only the guards can be asked again.
            guards = guards_of(route, Request(scope))
            again = None if guards is None else guards.handle
        super().__init__(responder_of(route.endpoint), scope, receive, send, again)
        self._handle = handle

    async def plan(
        self,
        receive: Receive | None = None,
        send: Send | None = None,
        *,
        errors: Sequence[dict[str, Any]] = (),
    ) -> Plan | None:
        """Run FastAPI's part, and let errors out of it as they are raised."""
        scope = self.scope
        handlers = scope.pop(_HANDLERS, None)
        if errors:
            scope[_ERRORS] = errors
        try:
            await self._handle(scope, receive or self.receive, send or self.send)
        finally:
            if handlers is not None:
                scope[_HANDLERS] = handlers
        plan: Plan | None = scope.pop(PLAN, None)
        return plan


def set_responder(endpoint: Callable[..., Any], responder: Responder) -> None:
    """Set the responder of an endpoint. FastAPI copies routes, but not endpoints."""
    setattr(endpoint, _RESPONDER, responder)


def responder_of(endpoint: Any) -> Any:
    """The responder of an endpoint; None for one that is not ours."""
    return getattr(endpoint, _RESPONDER, None)


def set_allowed(endpoint: Callable[..., Any], methods: set[str]) -> None:
    """Set the methods of an endpoint's path, for the answer 405; the set may grow later."""
    setattr(endpoint, _ALLOWED, methods)


class LiveRoute(GuardedRoute):
    """A route whose endpoint may have a responder."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def checked(request: Request) -> Response:
            errors = request.scope.pop(_ERRORS, None)
            if errors is None:
                return await handler(request)
            try:
                await handler(request)
            except RequestValidationError as error:
                raise RequestValidationError([*error.errors(), *errors]) from error
            raise RequestValidationError(errors)

        # A route class of the user's is around this, and sees these errors with the others.
        return handler if responder_of(self.endpoint) is None else checked

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        responder: Responder | None = responder_of(self.endpoint)
        if responder is None:
            await super().handle(scope, receive, send)
            return
        handle = super().handle

        async def serve(send: Sending) -> None:
            if self.methods and scope["method"] not in self.methods:
                allowed = getattr(self.endpoint, _ALLOWED, self.methods)
                raise HTTPException(405, headers={"Allow": ", ".join(sorted(allowed))})
            plan = await responder.serve(_Call(self, handle, scope, receive, send))
            if plan is not None and plan.background is not None:
                await plan.background()

        stream = responder.opens_stream(scope)
        await serve_with_problems(serve, own_problem, scope, receive, send, stream=stream)
