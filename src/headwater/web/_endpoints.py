"""Endpoints as FastAPI sees them: they return a plan, or hand over the stream.

FastAPI is shown the user's parameters, and those that we need beside them.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Request, Response, params
from pydantic import BaseModel

from headwater.delivery._event_stream import EventStream
from headwater.errors import DeclarationError
from headwater.web._live import Settings
from headwater.web._live_route import set_responder
from headwater.web._paging import NAMES
from headwater.web._pair import FeedHalf
from headwater.web._plan import Plan
from headwater.web._refused_values import naming_parameter
from headwater.web._remembered_request import RECHECK
from headwater.web._responders import BEGIN, ONLY_PLAN, STREAM, EventResponder
from headwater.web._user_functions import (
    asked_for,
    called,
    is_coroutine_function,
    parameters_of,
    returned_by,
    sign,
)
from headwater.web.asgi import SSE

__all__ = ["event_endpoint", "feed_endpoint"]


def feed_endpoint(call: Callable[..., Any], half: FeedHalf) -> Callable[..., Any]:
    """The feed's function as FastAPI sees it: it returns a plan with the source."""
    declaration = half.declaration
    name = declaration.feed.name
    own = parameters_of(call, f"feed {name!r}")
    for parameter in own.values():
        _check_paging(name, parameter)
    is_coroutine = is_coroutine_function(call)
    wanted = set(own)
    response = asked_for(own, Response)

    @functools.wraps(call)
    async def endpoint(**values: Any) -> Any:
        given = values[response]
        values = {name: values[name] for name in wanted}
        with naming_parameter(values):
            found = await called(call, is_coroutine, **values)
        return Plan(declaration.accept(found), given)

    sign(endpoint, own.values(), Response)
    set_responder(endpoint, half)
    return endpoint


def _check_paging(feed: str, parameter: inspect.Parameter) -> None:
    """Raise DeclarationError for a parameter that keeps paging from the query."""
    annotation, *notes = typing.get_args(parameter.annotation) or [parameter.annotation]
    query = [each for each in (parameter.default, *notes) if isinstance(each, params.Query)]
    names = {parameter.name, *(each.alias for each in query)}
    if query and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        names |= {each.alias or name for name, each in fields}
        if annotation.model_config.get("extra") == "forbid":
            raise DeclarationError(
                f"feed {feed!r}: {annotation.__name__}, the model of its parameter "
                f"{parameter.name!r}, forbids further query parameters, and every feed has "
                f"{', '.join(NAMES)} by itself: leave extra='forbid' out"
            )
    for taken in NAMES:
        if taken in names:
            raise DeclarationError(
                f"feed {feed!r}: its handler may not have a parameter {taken!r}; every feed "
                f"has {', '.join(NAMES)} by itself"
            )


def event_endpoint(
    endpoint: Callable[..., Any], path: str, sse: SSE, settings: Settings
) -> Callable[..., Any]:
    """The handler as FastAPI sees it: we provide its ``EventStream`` parameter."""
    if not is_coroutine_function(endpoint):
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

    wanted = set(parameters)
    request, response = asked_for(parameters, Request), asked_for(parameters, Response)

    @functools.wraps(endpoint)
    async def handler(**values: Any) -> Any:
        scope, given = values[request].scope, values[response]
        values = {name: values[name] for name in wanted}
        stream: EventStream | None = scope.get(STREAM)
        if RECHECK in scope or scope.get(ONLY_PLAN):
            return Plan(None, given)
        if stream is not None:
            scope[BEGIN]()
        result = await endpoint(**values)
        if stream is None or (sse.kind == "manual" and not stream.committed):
            return result
        return Plan(None, given)

    sign(handler, parameters.values(), returned_by(endpoint, path))
    set_responder(handler, EventResponder(sse, settings))
    return handler


def _is_stream(annotation: Any) -> bool:
    if annotation is EventStream:
        return True
    return any(_is_stream(each) for each in typing.get_args(annotation))


async def _provided(request: Request, response: Response) -> EventStream | None:
    stream: EventStream | None = request.scope.get(STREAM)
    if stream is not None:
        # What other dependencies set there, before or after this, is added when the head is sent.
        stream.headers_of = response
    return stream
