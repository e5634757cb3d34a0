"""Endpoints as FastAPI sees them: they return a plan, or hand over the stream.

FastAPI is shown the user's parameters, and those that we need beside them.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from types import NoneType
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from pydantic import BaseModel

from headwater.delivery._event_stream import EventStream
from headwater.errors import DeclarationError
from headwater.feeds._source import Source
from headwater.web._live import Settings
from headwater.web._live_route import set_responder
from headwater.web._pair import SOURCE_NEEDED, FeedHalf
from headwater.web._plan import Plan
from headwater.web._refused_values import naming_parameter
from headwater.web._remembered_request import RECHECK
from headwater.web._responders import BEGIN, STREAM, EventResponder
from headwater.web._user_functions import (
    as_coroutine,
    asked_for,
    is_coroutine_function,
    is_generator_function,
    parameters_of,
    returned_by,
    sign,
    unaliased,
)
from headwater.web.asgi import SSE

# What handlers return that take a feed for a route.
_NO_SOURCES = (Collection, Iterator, AsyncIterator, BaseModel, NoneType)


def feed_endpoint(call: Callable[..., Any], half: FeedHalf) -> Callable[..., Any]:
    """The feed's function as FastAPI sees it: it returns a plan with the source."""
    declaration = half.declaration
    name = declaration.feed.name
    own = parameters_of(call, f"feed {name!r}")
    _check_returned(name, call)
    run = as_coroutine(call)
    wanted = set(own)
    response = asked_for(own, Response)

    @functools.wraps(call)
    async def endpoint(**values: Any) -> Any:
        given = values[response]
        values = {name: values[name] for name in wanted}
        with naming_parameter(values):
            found = await run(**values)
        return Plan(declaration.accept(found), given)

    sign(endpoint, own.values(), Response)
    set_responder(endpoint, half)
    return endpoint


def _check_returned(name: str, call: Callable[..., Any]) -> None:
    """Raise DeclarationError for a function that is said to return something else than a Source."""
    if is_generator_function(call):
        raise DeclarationError(
            f"feed {name!r}: its handler has a `yield`: return a Source, and open what must be "
            "closed in a dependency"
        )
    said = returned_by(call, name)
    kind = said if typing.get_origin(said) is None else typing.get_origin(said)
    if isinstance(kind, type) and issubclass(kind, _NO_SOURCES) and not issubclass(kind, Source):
        shown = "None" if said is NoneType else inspect.formatannotation(said)
        raise DeclarationError(
            f"feed {name!r}: its handler is said to return {shown}; {SOURCE_NEEDED}"
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
        if RECHECK in scope:
            return Plan(None, given)
        if stream is not None:
            scope[BEGIN]()
        result = await endpoint(**values)
        if stream is None or (sse.kind == "manual" and not stream.committed):
            return result
        if result is not None and stream.is_connected and not stream.committed:
            raise DeclarationError(
                f"{path}: its handler returned {type(result).__name__} and sent nothing: call "
                "`await stream.send(...)`, or declare sse=SSE(kind='manual'), which may answer so"
            )
        return Plan(None, given)

    sign(handler, parameters.values(), returned_by(endpoint, path))
    set_responder(handler, EventResponder(sse, settings))
    return handler


def _is_stream(annotation: Any) -> bool:
    annotation, _ = unaliased(annotation)
    if annotation is EventStream:
        return True
    return any(_is_stream(each) for each in typing.get_args(annotation))


async def _provided(request: Request, response: Response) -> EventStream | None:
    stream: EventStream | None = request.scope.get(STREAM)
    if stream is not None:
        # What other dependencies set there, before or after this, is added when the head is sent.
        stream.headers_of = response
    return stream
