"""OpenAPI 3.2: both halves of each feed, streams with an ``itemSchema``, errors as problems."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from headwater.web.event_route import EventRoute
from headwater.web.feed_route import FeedDeclaration, FeedStreamRoute
from headwater.web.guards import Guard

__all__ = ["describe"]

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "title": "Problem",
    "description": "An error, as RFC 9457 has it.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "in", "detail"],
                "properties": {
                    "field": {"type": "string"},
                    "in": {"type": "string"},
                    "value": {},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}

_STATUS = {
    "401": "Not signed in, or the session has expired.",
    "403": "The permission is missing.",
    "406": "The stream was asked for as something else.",
    "410": "The position cannot be resumed: begin again without it.",
    "422": "A parameter or the body is not valid.",
    "503": "The storage is away, or the server is shutting down.",
}


def describe(document: dict[str, Any], app: FastAPI) -> dict[str, Any]:
    """Complete FastAPI's document with what it cannot know. The same object is returned."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    add = _Problems(schemas)
    paths = document.get("paths", {})
    operations = (
        (paths.get(path, {}).get(method.lower()), path, route, dependencies)
        for path, route, dependencies in _routes(app)
        for method in route.methods
    )
    for operation, path, route, dependencies in operations:
        if operation is None:
            continue
        responses = operation.setdefault("responses", {})
        if any(isinstance(each, Guard) for each in dependencies):
            add(responses, "401", "403")
        if isinstance(route, FeedStreamRoute):
            rest = paths.get(path.removesuffix("/stream"), {}).get("get", {})
            responses["200"] = {
                "description": "The stream. A first visit begins with a `snapshot`; one that sends "
                "`Last-Event-ID`, with what it missed.",
                "content": {
                    "text/event-stream": {"itemSchema": _items(rest, route.declaration, schemas)}
                },
            }
            add(responses, "406", "503")
        elif isinstance(route, EventRoute):
            ok = responses.setdefault("200", {"description": "The stream."})
            content = ok.setdefault("content", {})
            if route.sse.kind == "only":
                content.clear()
            content["text/event-stream"] = {"itemSchema": _event({}, None)}
            if route.sse.kind == "only":
                add(responses, "406")
        elif hasattr(route, "declaration"):
            add(responses, "410", "503")
        if "422" in responses:
            add(responses, "422")
    for name in ("HTTPValidationError", "ValidationError"):
        # Webhooks and callbacks may refer to them, and an application may have its own.
        others = {key: value for key, value in schemas.items() if key != name}
        elsewhere = {**document, "components": {"schemas": others}}
        if f'"#/components/schemas/{name}"' not in json.dumps(elsewhere, default=str):
            schemas.pop(name, None)
    return document


def _routes(app: FastAPI) -> Iterator[tuple[str, Any, list[Any]]]:
    for context in iter_route_contexts(app.routes):
        route: Any = context.original_route
        if getattr(context, "include_in_schema", False) and context.path_format:
            yield context.path_format, route, list(getattr(context, "dependencies", []))


class _Problems:
    """Adds answers with a problem to operations, and what they refer to."""

    def __init__(self, schemas: dict[str, Any]) -> None:
        # An application may have a model of that name.
        name = "Problem" if schemas.get("Problem", _PROBLEM) == _PROBLEM else "HttpProblem"
        schemas[name] = _PROBLEM
        self._schema = {"$ref": f"#/components/schemas/{name}"}

    def __call__(self, responses: dict[str, Any], *statuses: str) -> None:
        for status in statuses:
            responses[status] = {
                "description": _STATUS[status],
                "content": {"application/problem+json": {"schema": self._schema}},
            }


def _items(
    rest: dict[str, Any], declaration: FeedDeclaration, schemas: dict[str, Any]
) -> dict[str, Any]:
    feed = declaration.feed
    page = (
        rest.get("responses", {})
        .get("200", {})
        .get("content", {})
        .get("application/json", {})
        .get("schema", {})
    )
    model = schemas.get(str(page.get("$ref", "")).rpartition("/")[2], page)
    item = model.get("properties", {}).get(feed.collection, {}).get("items", {})
    branches = [_event(page, "snapshot"), _event(item, feed.event)]
    if declaration.keyed:
        key = {"type": "object", "description": "The key of the item that left."}
        branches.append(_event(key, f"{feed.event}_removed"))
    reason = {
        "type": "object",
        "required": ["reason"],
        "properties": {"reason": {"enum": ["expired", "unknown"]}},
    }
    status = {
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"type": "integer"}},
    }
    branches += [
        _event(reason, "reset", with_id=False),
        _event(status, "error", with_id=False),
    ]
    return {"oneOf": branches}


def _event(data: dict[str, Any], name: str | None, *, with_id: bool = True) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "event": {"type": "string"} if name is None else {"const": name},
        "data": {"type": "string"},
    }
    if data:
        properties["data"] |= {"contentMediaType": "application/json", "contentSchema": data}
    if with_id:
        properties["id"] = {"type": "string", "description": "A position to resume from."}
    required = ["data"] if name is None else ["event", "data"]
    return {"type": "object", "required": required, "properties": properties}
