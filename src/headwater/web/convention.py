"""The pair convention, checked on any application that uses the library.

Every ``…/stream`` has a REST twin with the same parameters and the same permission, and its path
is ``/api/{resource}/{action}/stream``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, params
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from fastapi.security.base import SecurityBase
from fastapi.sse import EventSourceResponse

from headwater.web.event_route import EventRoute
from headwater.web.feed_route import FeedStreamRoute
from headwater.web.guards import Guard

__all__ = ["Pair", "breaches", "pairs"]

_PATH = re.compile(r"/api(/[^/]+)+/stream")
# What only one half of a pair can have: a stream has nothing to wait for, and how it resumes is
# its own affair.
_ONE_HALF = frozenset({"wait", "after", "before", "lastEventId", "heartbeat"})


@dataclass(frozen=True, slots=True)
class Pair:
    """Two routes that show the same feed."""

    rest: str
    stream: str


@dataclass(frozen=True, slots=True)
class _Route:
    path: str
    parameters: dict[str, str]
    permissions: frozenset[str]
    streams: bool


def pairs(app: FastAPI) -> list[Pair]:
    """The pairs of an application, by path."""
    routes = _routes(app)
    return [
        Pair(path.removesuffix("/stream"), path)
        for path in sorted(routes)
        if path.endswith("/stream") and path.removesuffix("/stream") in routes
    ]


def breaches(app: FastAPI) -> list[str]:
    """One line for each breach of the convention; empty when there is none."""
    routes = _routes(app)
    found = []
    for path, route in sorted(routes.items()):
        if not route.streams and not path.endswith("/stream"):
            continue
        if not _PATH.fullmatch(path):
            found.append(f"{path}: a stream's path is /api/{{resource}}/{{action}}/stream")
            if not path.endswith("/stream"):
                continue
        twin = routes.get(path.removesuffix("/stream"))
        if twin is None:
            found.append(f"{path}: no REST twin at GET {path.removesuffix('/stream')}")
            continue
        found += _parameters(route, twin)
        found += _permissions(route, twin)
    return found


def _parameters(stream: _Route, rest: _Route) -> Iterable[str]:
    for name in sorted((stream.parameters.keys() | rest.parameters.keys()) - _ONE_HALF):
        ours, theirs = stream.parameters.get(name), rest.parameters.get(name)
        if ours is None:
            yield f"{stream.path}: parameter {name!r} is on GET {rest.path} only"
        elif theirs is None:
            yield f"{stream.path}: parameter {name!r} is not on GET {rest.path}"
        elif ours != theirs:
            yield f"{stream.path}: parameter {name!r} is {ours} here, {theirs} on GET {rest.path}"


def _permissions(stream: _Route, rest: _Route) -> Iterable[str]:
    if stream.permissions != rest.permissions:
        ours = ", ".join(sorted(stream.permissions)) or "nothing"
        theirs = ", ".join(sorted(rest.permissions)) or "nothing"
        yield f"{stream.path}: it asks for {ours}, GET {rest.path} for {theirs}"


def _routes(app: FastAPI) -> dict[str, _Route]:
    found: dict[str, _Route] = {}
    for context in iter_route_contexts(app.routes):
        if context.path_format is None or "GET" not in (context.methods or ()):
            continue
        dependant = getattr(context, "dependant", None)
        if dependant is None:
            continue
        original: Any = context.original_route
        streams = isinstance(original, FeedStreamRoute) or (
            isinstance(original, EventRoute) and original.sse.kind == "only"
        )
        response = getattr(context, "response_class", None)
        streams |= isinstance(response, type) and issubclass(response, EventSourceResponse)
        found[context.path_format] = _Route(
            context.path_format,
            dict(_parameters_of(dependant)),
            frozenset(_permissions_of(dependant, context.dependencies)),
            streams,
        )
    return found


def _parameters_of(dependant: Dependant) -> Iterable[tuple[str, str]]:
    for field in (*dependant.path_params, *dependant.query_params):
        need = "required" if field.field_info.is_required() else f"optional ({field.default!r})"
        kind = getattr(field.field_info.annotation, "__name__", str(field.field_info.annotation))
        yield field.alias, f"{kind}, {need}"
    for inner in dependant.dependencies:
        yield from _parameters_of(inner)


def _permissions_of(dependant: Dependant, declared: Iterable[params.Depends]) -> Iterable[str]:
    for each in declared:
        if isinstance(each, Guard) and each.permission is not None:
            yield each.permission
        elif each.dependency is not None:
            yield _named(each.dependency)
    yield from _schemes_of(dependant)


def _schemes_of(dependant: Dependant) -> Iterable[str]:
    for inner in dependant.dependencies:
        if isinstance(inner.call, SecurityBase):
            yield inner.call.scheme_name
        yield from _schemes_of(inner)


def _named(call: Callable[..., Any]) -> str:
    """A dependency by what it is made of, since factories make a new function at each call."""
    name = getattr(call, "__qualname__", type(call).__qualname__)
    name = name.replace(".<locals>", "")
    cells = [cell.cell_contents for cell in getattr(call, "__closure__", None) or ()]
    plain = [repr(each) for each in cells if isinstance(each, (str, int, float, bool, tuple))]
    if not hasattr(call, "__code__"):
        plain += [f"{key}={value!r}" for key, value in sorted(vars(call).items())]
    return f"{name}({', '.join(plain)})" if plain else name
