"""The route of everything of ours in FastAPI: it answers after FastAPI has finished.

``handle`` lets FastAPI run the endpoint and close its dependencies; then the endpoint's responder
answers. To check a right again it runs the same route on a copy of the request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from headwater.web._fastapi_problems import own_problem
from headwater.web._guards import GuardedRoute, guards_of, takes_body
from headwater.web._plan import PLAN, Plan
from headwater.web._remembered_request import RememberedRequest
from headwater.web._responders import Responder
from headwater.web._rights import Verdict, verdict_of
from headwater.web.asgi import Receive, Scope, Send, Sending
from headwater.web.problems import serve_with_problems

__all__ = ["LiveRoute", "responder_of", "set_allowed", "set_responder"]

_RESPONDER = "headwater_responder"
# What else is wrong with a request, in its scope.
_ERRORS = "headwater.errors"
_ALLOWED = "headwater_allowed"
# Starlette catches an application's errors around each route by what it keeps under this name, and
# again around all routes. Without it at the route, the first is left out; if Starlette names it
# otherwise, errors of our routes are answered in the application's own way.
_HANDLERS = "starlette.exception_handlers"

Handle = Callable[[Scope, Receive, Send], Awaitable[None]]


class _Recheck:
    """Checks the right of a request again, by running FastAPI's part of its route again.

    It holds nothing of the request's connection, as it lives as long as the stream.
    """

    __slots__ = ("_handle", "remembered")

    def __init__(
        self, route: LiveRoute, handle: Handle, scope: Scope, common: dict[str, Any]
    ) -> None:
        self.remembered = RememberedRequest(scope, common)
        self._handle: Handle | None = handle
        if takes_body(route):
            # The body will be gone, so only the guards can be asked again.
            guards = guards_of(route, Request(scope))
            self._handle = None if guards is None else guards.handle

    async def __call__(self) -> tuple[Verdict, Any]:
        """The verdict, and the result of the new plan."""
        if self._handle is None:
            return None, None
        try:
            status, scope = await self.remembered.run(self._handle)
        except HTTPException as error:
            return verdict_of(error.status_code), None
        plan: Plan | None = scope.get(PLAN)
        if plan is None:
            return verdict_of(status or 500), None
        return None, plan.result


class _Call:
    """One request on its way through a route. As ``responders.Call``."""

    def __init__(
        self, route: LiveRoute, handle: Handle, scope: Scope, receive: Receive, send: Sending
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.recheck = _Recheck(route, handle, scope, responder_of(route.endpoint).common)
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
    """Say what answers for an endpoint. Routes are copied when they are included, this is not."""
    setattr(endpoint, _RESPONDER, responder)


def responder_of(endpoint: Any) -> Any:
    """What answers for an endpoint of ours, else None."""
    return getattr(endpoint, _RESPONDER, None)


def set_allowed(endpoint: Callable[..., Any], methods: set[str]) -> None:
    """Say which methods the path of an endpoint has; the set may grow."""
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
            await responder.serve(_Call(self, handle, scope, receive, send))

        stream = responder.opens_stream(scope)
        await serve_with_problems(serve, own_problem, scope, receive, send, stream=stream)
