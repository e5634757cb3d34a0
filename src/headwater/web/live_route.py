"""The route of everything of ours in FastAPI: it answers after FastAPI has finished.

``handle`` lets FastAPI run the endpoint and close its dependencies, then lets the endpoint's *half*
answer. To check a right again it runs the same route on a copy of the request.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from fastapi import Request
from starlette.exceptions import HTTPException

from headwater.web.asgi import Receive, Scope, Send
from headwater.web.fastapi_problems import own_problem
from headwater.web.guards import GuardedRoute, guards_of
from headwater.web.plan import PLAN, Plan
from headwater.web.rights import RememberedRequest, Verdict, verdict_of

__all__ = ["Call", "Half", "LiveRoute", "Recheck", "half_of", "set_half"]

logger = logging.getLogger("headwater.web")

_HALF = "headwater_half"
# Starlette catches an application's errors around each route by what it keeps under this name, and
# again around all routes. Without it at the route, the first is left out; if Starlette names it
# otherwise, errors of our routes are answered in the application's own way.
_HANDLERS = "starlette.exception_handlers"

Handle = Callable[[Scope, Receive, Send], Awaitable[None]]


class Recheck:
    """Checks the right of a request again, by running FastAPI's part of its route again.

    It holds nothing of the request's connection, as it lives as long as the stream.
    """

    __slots__ = ("_handle", "remembered")

    def __init__(
        self, route: LiveRoute, handle: Handle, scope: Scope, common: dict[str, Any]
    ) -> None:
        self.remembered = RememberedRequest(scope, common)
        self._handle: Handle | None = handle
        if route.body_field is not None:
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


class Call:
    """One request on its way through a route.

    Attributes:
        recheck: checks its right again.
    """

    def __init__(
        self, route: LiveRoute, handle: Handle, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.recheck = Recheck(route, handle, scope, half_of(route.endpoint).common)
        self._handle = handle

    async def plan(self, receive: Receive | None = None, send: Send | None = None) -> Plan | None:
        """Run FastAPI's part. None when it has answered by itself. Raises what handlers raise."""
        scope = self.scope
        handlers = scope.pop(_HANDLERS, None)
        try:
            await self._handle(scope, receive or self.receive, send or self.send)
        finally:
            if handlers is not None:
                scope[_HANDLERS] = handlers
        plan: Plan | None = scope.pop(PLAN, None)
        return plan


class Half(Protocol):
    """What answers the requests of a route.

    Attributes:
        common: kept for ``RememberedRequest``.
    """

    common: dict[str, Any]

    async def serve(self, call: Call) -> None:
        """Answer the request. Errors before anything was sent are raised."""
        ...


def set_half(endpoint: Callable[..., Any], half: Half) -> None:
    """Say what answers for an endpoint. Routes are copied when they are included, this is not."""
    setattr(endpoint, _HALF, half)


def half_of(endpoint: Any) -> Any:
    """What answers for an endpoint of ours, else None."""
    return getattr(endpoint, _HALF, None)


class LiveRoute(GuardedRoute):
    """A route whose endpoint may have a half that answers."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        half: Half | None = half_of(self.endpoint)
        if half is None:
            await super().handle(scope, receive, send)
            return
        begun = False

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await half.serve(Call(self, super().handle, scope, receive, watched))
        except Exception as error:
            if begun:
                raise
            answer = own_problem(error, scope.get("app"))
            if answer is None:
                raise
            await answer(scope, receive, send)
            if answer.status_code == 500:
                # The server logs it.
                raise
