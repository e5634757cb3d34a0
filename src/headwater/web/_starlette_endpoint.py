"""One route of Headwater in Starlette without FastAPI: its guards, its function, its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from headwater.errors import DeclarationError
from headwater.web._remembered_request import RECHECK
from headwater.web._responders import (
    ONLY_PLAN,
    PLAN,
    Call,
    EventResponder,
    Handle,
    Planned,
    Responder,
)
from headwater.web._user_functions import as_coroutine
from headwater.web.asgi import Receive, Scope, Send, Sending
from headwater.web.problems import own_problem, serve_with_problems, validation_error

Guard = Callable[[Request], Awaitable[object] | object]


class StarletteEndpoint:
    """An ASGI application: guards, then a function, then its responder.

    Attributes:
        responder: it answers the request.
        guards: functions of the request.
    """

    def __init__(
        self,
        responder: Responder,
        guards: Sequence[Guard],
        call: Callable[[Request], Awaitable[Any]],
    ) -> None:
        if not isinstance(guards, (list, tuple)) or not all(map(callable, guards)):
            raise DeclarationError(f"guards={guards!r}: write a list of functions of the request")
        self.responder = responder
        self.guards = tuple(guards)
        self._guards = tuple((each, as_coroutine(each)) for each in guards)
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def serve(send: Sending) -> None:
            await self.responder.serve(_Call(self, scope, receive, send))

        stream = self.responder.opens_stream(scope)
        await serve_with_problems(serve, own_problem, scope, receive, send, stream=stream)

    async def run(self, request: Request, errors: Sequence[dict[str, Any]] = ()) -> Any:
        """The guards, then the function."""
        for each, run in self._guards:
            if isinstance(await run(request), Response):
                raise DeclarationError(
                    f"guard {getattr(each, '__qualname__', each)!r} returned a response, which "
                    "would not be sent: raise HTTPException or Problem for a caller that may not "
                    "pass"
                )
        if errors:
            raise validation_error(errors)
        if request.scope.get(ONLY_PLAN) or (
            RECHECK in request.scope and isinstance(self.responder, EventResponder)
        ):
            return None
        return await self._call(request)

    async def run_again(self, scope: Scope, receive: Receive, _: Send) -> None:
        """The same, to check the right of a request."""
        scope[PLAN] = Planned(await self.run(Request(scope, receive)))


class _Call(Call):
    """One request on its way."""

    def __init__(
        self, endpoint: StarletteEndpoint, scope: Scope, receive: Receive, send: Sending
    ) -> None:
        super().__init__(endpoint.responder, scope, receive, send)
        self._endpoint = endpoint

    def again(self) -> Handle:
        """As Call."""
        return self._endpoint.run_again

    async def plan(
        self,
        receive: Receive | None = None,
        send: Send | None = None,
        *,
        errors: Sequence[dict[str, Any]] = (),
    ) -> Planned | None:
        """Run the guards and the function; a response that it returns is sent."""
        receive, send = receive or self.receive, send or self.send
        result = await self._endpoint.run(Request(self.scope, receive, send), errors)
        if isinstance(result, Response):
            await result(self.scope, receive, send)
            return None
        return Planned(result)
