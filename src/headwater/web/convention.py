"""The pair convention, checked on any application that uses the library.

An application is one of FastAPI or Starlette, with those that are mounted in it.

Every ``…/stream`` has a REST twin with the same parameters and the same permission, and its path
is ``/api/{resource}/{action}/stream``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Host, Mount, Route

from headwater.web._pair import FeedHalf
from headwater.web._responders import EventResponder
from headwater.web._starlette_endpoint import StarletteEndpoint

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
    """One GET route.

    Its parameters are None where no document names them: in Starlette, and where FastAPI's document
    leaves the route out.
    """

    path: str
    parameters: dict[str, str] | None
    permissions: frozenset[str]
    streams: bool


def pairs(app: Starlette) -> list[Pair]:
    """The pairs of an application, by path."""
    routes = _routes(app)
    return [
        Pair(path.removesuffix("/stream"), path)
        for path in sorted(routes)
        if path.endswith("/stream") and path.removesuffix("/stream") in routes
    ]


def breaches(app: Starlette) -> list[str]:
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
    if stream.parameters is None or rest.parameters is None:
        return
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


def _routes(app: Starlette | Mount | Host, prefix: str = "") -> dict[str, _Route]:
    """The GET routes of an application, and of those that are mounted in it, by path."""
    found: dict[str, _Route] = {}
    for route in app.routes:
        if isinstance(route, (Mount, Host)):
            found |= _routes(route, prefix + getattr(route, "path", ""))
        elif isinstance(route, Route) and isinstance(route.endpoint, StarletteEndpoint):
            if "GET" not in (route.methods or ()):
                continue
            path, endpoint = prefix + route.path, route.endpoint
            guards = frozenset(map(_named, endpoint.guards))
            found[path] = _Route(path, None, guards, _streams(endpoint.responder))
    if sys.modules.get("fastapi") is not None:
        found |= _api_routes(app, prefix)
    return found


def _api_routes(app: Starlette | Mount | Host, prefix: str) -> dict[str, _Route]:
    """As ``_routes``, those that FastAPI made."""
    from fastapi.openapi.utils import get_openapi

    from headwater.web._guards import included_routes
    from headwater.web._live_route import responder_of

    document = get_openapi(title="pairs", version="1", routes=app.routes)
    found: dict[str, _Route] = {}
    for route in included_routes(app):
        if route.path_format is None or "GET" not in (route.methods or ()):
            continue
        operation = document.get("paths", {}).get(route.path_format, {}).get("get")
        security = [] if operation is None else operation.get("security", [])
        path = prefix + route.path_format
        found[path] = _Route(
            path,
            None if operation is None else _described(operation),
            frozenset(
                [*_permissions_of(route.dependencies), *(name for s in security for name in s)]
            ),
            _streams(responder_of(route.endpoint), operation),
        )
    return found


def _streams(responder: Any, operation: dict[str, Any] | None = None) -> bool:
    if isinstance(responder, FeedHalf):
        return responder.streams
    if isinstance(responder, EventResponder):
        return responder.sse.kind == "only"
    answer = (operation or {}).get("responses", {}).get("200", {})
    return list(answer.get("content", {})) == ["text/event-stream"]


def _described(operation: dict[str, Any]) -> dict[str, str]:
    """The parameters of an operation by name, each with all that a client must know of it."""
    found = {}
    for each in operation.get("parameters", []):
        schema = {key: each["schema"][key] for key in each["schema"] if key != "title"}
        need = "required" if each.get("required") else "optional"
        found[each["name"]] = f"{json.dumps(schema, sort_keys=True)}, {need} in the {each['in']}"
    return found


def _permissions_of(declared: Iterable[Any]) -> Iterable[str]:
    from headwater.web._guards import Guard, Once

    for each in declared:
        call = each.dependency
        if isinstance(each, Guard) and each.permission is not None:
            yield each.permission
        elif call is not None:
            yield _named(call.call if isinstance(call, Once) else call)


def _named(call: Callable[..., Any]) -> str:
    """A dependency by what it is made of, since factories make a new function at each call."""
    if isinstance(call, partial):
        name, made_of = _named(call.func), [*map(repr, call.args), *_shown(call.keywords)]
    else:
        name = getattr(call, "__qualname__", type(call).__qualname__).replace(".<locals>", "")
        if hasattr(call, "__code__"):
            cells = getattr(call, "__closure__", None) or ()
            made_of = [repr(cell.cell_contents) for cell in cells]
        else:
            made_of = _shown(_attributes(call))
    # What has no text of its own has another address in each half.
    told = [each for each in made_of if " at 0x" not in each]
    return f"{name}({', '.join(told)})" if told else name


def _attributes(call: object) -> dict[str, Any]:
    slots = (name for kind in type(call).__mro__ for name in vars(kind).get("__slots__", ()))
    return {name: getattr(call, name, None) for name in (*getattr(call, "__dict__", ()), *slots)}


def _shown(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value!r}" for name, value in sorted(values.items())]
