"""Routes with ``sse=`` in FastAPI: the low level."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, MutableMapping
from typing import Annotated, Any

from fastapi import Depends, Request, Response

from headwater.delivery.event_stream import EventStream
from headwater.delivery.stream import EVENT_STREAM_HEADERS
from headwater.errors import DeclarationError
from headwater.web.asgi import SSE, Connection, last_event_id, run_handler
from headwater.web.guards import subjects
from headwater.web.live import Live, Settings
from headwater.web.live_route import Call, set_half
from headwater.web.negotiation import (
    accept_of,
    accepts_event_stream,
    asks_for_event_stream,
    not_acceptable,
)
from headwater.web.pair import refuse_stream, send_response
from headwater.web.plan import Plan, dependency_response
from headwater.web.rights import RECHECK, Verdict
from headwater.web.signatures import parameters_of

__all__ = ["EventHalf", "event_endpoint"]

_STREAM = "headwater.stream"
# Called when the guards have let the caller pass and the handler begins.
_BEGIN = "headwater.begin"
# The handler is not wanted, only what its dependencies say.
_ONLY_PLAN = "headwater.only_plan"
_RESPONSE = "headwater_response"
_REQUEST = "headwater_request"


class EventHalf:
    """What answers a route with ``sse=``.

    Attributes:
        sse: how it streams.
    """

    def __init__(self, sse: SSE, settings: Settings) -> None:
        self.sse = sse
        self.common: dict[str, Any] = {}
        self._settings = settings

    async def serve(self, call: Call) -> None:
        """Let the handler stream, or answer as a normal route where that is asked for."""
        live = self._settings.live()
        scope, kind = call.scope, self.sse.kind
        accept = accept_of(scope)
        streams = kind == "manual" or (
            asks_for_event_stream(accept) if kind == "dual" else accepts_event_stream(accept)
        )
        is_head = scope["method"] == "HEAD" and kind != "manual"
        retry = live.drain_retry() if streams else None
        if kind == "dual":
            call.send = _varying(call.send)
        if streams and not is_head and retry is None:
            await self._stream(live, call)
            return
        scope[_ONLY_PLAN] = streams or kind == "only"
        plan = await call.plan()
        if plan is None:
            return
        if not streams:
            raise not_acceptable(scope["path"])
        headers = (*EVENT_STREAM_HEADERS, *plan.dependency_headers)
        if retry is not None:
            live.counters.refused += 1
            await refuse_stream(call.send, "the server is shutting down", retry, head=is_head)
        else:
            await send_response(call.send, 200, headers, head=True)

    async def _stream(self, live: Live, call: Call) -> None:
        scope = call.scope
        rechecks = live.rights.rechecks
        connection = Connection(scope, call.receive, call.send)
        sse = self.sse
        stream = EventStream(
            connection.sender,
            live.hub.streams,
            heartbeat=live.heartbeat if sse.heartbeat == "default" else sse.heartbeat,
            serializer=sse.serializer,
            last_event_id=last_event_id(scope),
            max_pending=sse.max_pending,
        )
        scope[_STREAM] = stream

        again = call.recheck

        async def check() -> Verdict:
            return (await again())[0]

        def permitted() -> None:
            name = (id(self), again.remembered.name)
            live.rights.hold(stream, name, check, subjects(scope), rechecks)

        scope[_BEGIN] = permitted

        async def send(message: MutableMapping[str, Any]) -> None:
            # FastAPI's own answer, unless the handler has begun to stream.
            if not stream.committed:
                await call.send(message)

        async def handle() -> Plan | None:
            return await call.plan(connection.incoming.receive, send)

        plan = await run_handler(connection, stream, handle, sse)
        if stream.committed or not (plan is None or stream.ended):
            if not stream.committed:
                stream.close()
            await connection.hold(stream)
        else:
            # It was answered as a normal route, or its client has gone.
            stream.release()
        if plan is not None and plan.background is not None:
            await plan.background()


def event_endpoint(
    endpoint: Callable[..., Any], path: str, sse: SSE, settings: Settings
) -> Callable[..., Any]:
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
        request: Request = values.pop(_REQUEST)
        response: Response = values.pop(_RESPONSE)
        scope = request.scope
        stream: EventStream | None = scope.get(_STREAM)
        if RECHECK in scope or scope.get(_ONLY_PLAN):
            return Plan(None, response)
        if stream is not None:
            scope[_BEGIN]()
        result = await endpoint(**values)
        if stream is None or (sse.kind == "manual" and not stream.committed):
            return result
        return Plan(None, response)

    del handler.__wrapped__
    handler.__annotations__ = {}
    keyword = inspect.Parameter.KEYWORD_ONLY
    handler.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            *parameters.values(),
            inspect.Parameter(_REQUEST, keyword, annotation=Annotated[Any, Depends(_request)]),
            inspect.Parameter(_RESPONSE, keyword, annotation=dependency_response),
        ],
        return_annotation=_returned(endpoint),
    )
    set_half(handler, EventHalf(sse, settings))
    return handler


async def _request(request: Request) -> Request:
    return request


def _returned(endpoint: Callable[..., Any]) -> Any:
    try:
        return typing.get_type_hints(endpoint).get("return", inspect.Signature.empty)
    except NameError:
        return inspect.Signature.empty


def _is_stream(annotation: Any) -> bool:
    if annotation is EventStream:
        return True
    return any(_is_stream(each) for each in typing.get_args(annotation))


async def _provided(request: Request, response: Response) -> EventStream | None:
    stream: EventStream | None = request.scope.get(_STREAM)
    if stream is not None:
        # What other dependencies set there, before or after this, is added when the head is sent.
        stream.headers_of = response
    return stream


def _varying(send: Any) -> Any:
    """Adds ``Vary: Accept``: a dual route answers differently by it."""

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"vary", b"Accept")]
        await send(message)

    return sending
