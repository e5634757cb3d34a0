"""Routes with ``sse=``: the low level."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.dependencies.models import Dependant
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from headwater.delivery.event_stream import EventStream
from headwater.delivery.stream import EVENT_STREAM_HEADERS, Stream
from headwater.errors import DeclarationError
from headwater.web.asgi import SSE, Connection, last_event_id, run_handler
from headwater.web.guards import GuardedRoute, Guards, Handler, _empty_response, _stacks, subjects
from headwater.web.leases import Verdict
from headwater.web.live import CommonScopes, Live, renewed_request, verdict_of
from headwater.web.negotiation import accepts_event_stream, asks_for_event_stream
from headwater.web.problems import Problem
from headwater.web.signatures import parameters_of

__all__ = ["EventRoute", "HoldResponse", "head_of_stream", "take_stream"]

_STREAM = "headwater.stream"


class HoldResponse(Response):
    """A response that was begun already, and now lasts for as long as its stream."""

    media_type = "text/event-stream"

    def __init__(
        self, connection: Connection, stream: Stream, background: BackgroundTask | None = None
    ) -> None:
        # Its head was sent by its stream, so it has none to make.
        self.status_code = 200
        self.background = background
        self.body = b""
        self.raw_headers = []
        self._connection = connection
        self._stream = stream

    async def __call__(self, _scope: Any, _receive: Any, _send: Any) -> None:
        await self._connection.hold(self._stream)
        if self.background is not None:
            await self.background()


def head_of_stream(extra: Response) -> Response:
    """The answer to HEAD: what a stream's head would be."""
    response = Response(status_code=200)
    response.raw_headers = [*EVENT_STREAM_HEADERS, *extra.raw_headers]
    return response


def take_stream(endpoint: Callable[..., Any], path: str) -> Callable[..., Any]:
    """The handler as FastAPI shall see it: its ``EventStream`` parameter is provided by us."""
    if not inspect.iscoroutinefunction(endpoint):
        raise DeclarationError(f"{path}: a handler with sse= must be an `async def` function")
    parameters = parameters_of(endpoint, path)
    taken = [name for name, each in parameters.items() if _is_stream(each.annotation)]
    for name in taken:
        provided = Annotated[Any, Depends(_provided)]
        parameters[name] = parameters[name].replace(annotation=provided)
    if not taken:
        raise DeclarationError(
            f"{path}: a handler with sse= needs a parameter `stream: EventStream`"
        )

    @functools.wraps(endpoint)
    async def handler(**values: Any) -> Any:
        return await endpoint(**values)

    del handler.__wrapped__
    handler.__annotations__ = {}
    handler.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        list(parameters.values()), return_annotation=_returned(endpoint)
    )
    return handler


def _returned(endpoint: Callable[..., Any]) -> Any:
    try:
        return typing.get_type_hints(endpoint).get("return", inspect.Signature.empty)
    except NameError:
        return inspect.Signature.empty


def _is_stream(annotation: Any) -> bool:
    if annotation is EventStream:
        return True
    return any(_is_stream(each) for each in typing.get_args(annotation))


def _provided(request: Request, response: Response) -> EventStream | None:
    stream: EventStream | None = request.scope.get(_STREAM)
    if stream is not None:
        # What other dependencies set there, before or after this, is looked at on commit.
        stream.headers_of = response
    return stream


class EventRoute(GuardedRoute):
    """A route whose handler is given an ``EventStream``.

    Attributes:
        sse: how it streams.
        rest_twin: the path of the same data as JSON, which a 406 names.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        sse: SSE,
        live: Live,
        heartbeat: float | None,
        **options: Any,
    ) -> None:
        self.sse = sse
        self._live = live
        self._common: CommonScopes = {}
        self._heartbeat = heartbeat if sse.heartbeat == "default" else sse.heartbeat
        super().__init__(path, endpoint, **options)

    def wrap(
        self,
        handler: Handler,
        guards: Guards,
        dependant: Dependant,  # noqa: ARG002 - for those that solve it themselves
        overrides: Any,
    ) -> Handler:
        async def answer(request: Request) -> Response:
            state = dict(request.scope.get("state") or {})
            doubts = self._live.leases.doubts
            extra = _empty_response()
            await guards.solve(request, extra, overrides)
            accept = request.headers.get("accept")
            kind = self.sse.kind
            if kind == "dual":
                extra.headers["vary"] = "Accept"
            streams = kind == "manual" or (
                asks_for_event_stream(accept) if kind == "dual" else accepts_event_stream(accept)
            )
            if not streams:
                if kind == "only":
                    raise not_acceptable(request.url.path)
                request.scope[_STREAM] = None
                response = await handler(request)
                response.headers.raw.extend(extra.headers.raw)
                return response
            if request.method == "HEAD" and kind != "manual":
                return head_of_stream(extra)
            self._live.refuse_while_draining()
            return await self._stream(request, handler, guards, overrides, extra, state, doubts)

        return answer

    async def _stream(
        self,
        request: Request,
        handler: Handler,
        guards: Guards,
        overrides: Any,
        extra: Response,
        state: dict[str, Any],
        doubts: int,
    ) -> Response:
        connection = Connection(request.scope, request.receive, request._send)
        stream = EventStream(
            connection.sender,
            self._live.hub.streams,
            heartbeat=self._heartbeat,
            serializer=self.sse.serializer,
            last_event_id=last_event_id(request.scope),
            max_pending=self.sse.max_pending,
        )
        stream.headers = extra.raw_headers
        if guards.guards:
            again, name = renewed_request(request, state, self._common)

            async def check() -> Verdict:
                try:
                    await guards.solve(again(), _empty_response(), overrides)
                except HTTPException as error:
                    return verdict_of(error)
                return None

            self._live.leases.hold(
                stream, (self.path, name), check, subjects(request.scope), doubts
            )
        request.scope[_STREAM] = stream
        request._receive = connection.incoming.receive

        async def handle() -> Response:
            async with AsyncExitStack() as stack:
                # What dependencies hold is released when the handler returns, not when the stream
                # ends; they see its error, and it sees theirs.
                with _stacks(request, stack):
                    return await handler(request)

        response: Response | None = await run_handler(connection, stream, handle, self.sse)
        if not stream.committed:
            if self.sse.kind == "manual" and response is not None:
                stream.release()
                return response
            if stream.ended:
                stream.release()
                return Response(status_code=503)
            stream.close()
        return HoldResponse(connection, stream, response.background if response else None)


def not_acceptable(path: str) -> Problem:
    """A stream was asked for as something else."""
    twin = path.removesuffix("/stream") if path.endswith("/stream") else None
    hint = f" GET {twin} answers application/json." if twin else ""
    members: dict[str, Any] = {"rest": twin} if twin else {}
    detail = f"{path} answers text/event-stream only: send Accept: text/event-stream.{hint}"
    return Problem(406, detail, **members)
