"""What OpenAPI says of feeds and streams.

Each route describes itself when it is declared, by FastAPI's own options, so any application's
document gains its paths and keeps its version. In OpenAPI 3.1 and older the content of a stream has
a ``schema`` with one branch for each event; 3.2 has ``itemSchema`` for that, and
``install_openapi`` chooses it for a whole application.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import fastapi
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from headwater.web._feed_models import events_model
from headwater.web._paging import described
from headwater.web._pair import FeedHalf
from headwater.web.asgi import SSE

_EVENT_STREAM = "text/event-stream"
_PROBLEM_JSON = "application/problem+json"
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
    },
}
_INVALID: dict[str, Any] = {
    **_PROBLEM,
    "title": "InvalidRequest",
    "properties": {
        **_PROBLEM["properties"],
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
    401: "Not signed in, or the session has expired.",
    403: "The permission is missing.",
    404: "There is no such thing, or it is another caller's.",
    409: "It cannot be done in this state.",
    413: "The body is too large.",
    406: "The stream was asked for as something else.",
    410: "The position cannot be resumed: begin again without it.",
    422: "A parameter or the body is not valid.",
    429: "There are too many streams. Try again later.",
    503: "The storage is away, or the server is shutting down.",
}
_ANY_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "event": {"type": "string"},
        "data": {"type": "string"},
        "id": {"type": "string", "description": "A position to resume from."},
    },
}
_STREAM = (
    "The stream. A first visit begins with a `snapshot`; one that sends `Last-Event-ID`, with what "
    "it missed."
)


class _StreamContent(dict[str, Any]):
    """The ``content`` of a stream's answer, whose model FastAPI takes for JSON.

    FastAPI puts the models of all answers of a route under the media type of its response class,
    and under JSON where that has none. So errors are JSON, and the stream says here what it is.
    """

    def setdefault(self, _: str, default: Any = None) -> Any:
        return super().setdefault(_EVENT_STREAM, default)


class _EventsDescribed(JSONResponse):
    """Names the media type of all answers of a route. It is never sent."""

    media_type = _EVENT_STREAM


def stream_options(events: Any, description: str, responses: Mapping[Any, Any]) -> dict[str, Any]:
    """FastAPI's options for a route that answers with a stream.

    Arguments:
        events: the model of one event.
        responses: what else the route answers.
    """
    made: dict[str, Any] = {"response_description": description, "responses": {**responses}}
    if fastapi.__version__ == "0.115.0":
        # It would describe the model as input, and give models of the application other names.
        return {**made, "response_model": events, "response_class": _EventsDescribed}
    made["responses"][200] = {"model": events, "content": _StreamContent()}
    return {**made, "response_model": None, "response_class": Response}


def feed_options(
    half: FeedHalf, page: type[BaseModel], options: Mapping[str, Any], *, guarded: bool
) -> dict[str, Any]:
    """FastAPI's options for one half of a feed.

    Arguments:
        page: the model of a page.
        options: the user's own.
    """
    refused = [401, 403] if guarded else []
    if half.streams:
        events = events_model(half.declaration, page)
        made = stream_options(events, _STREAM, problem_responses([*refused, 406, 422]))
    else:
        # Whatever the application's default is, a page is JSON.
        made = {"response_model": page, "response_class": JSONResponse}
        made["responses"] = problem_responses([*refused, 410, 422, 503])
    parameters = described(half.declaration.feed.page_limit, stream=half.streams)
    made["openapi_extra"] = {"parameters": parameters}
    return with_own(made, options, half.suffix.replace("/", "_"))


def with_own(made: dict[str, Any], options: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    """FastAPI's options for one of several routes: our own, and the user's for all of them.

    Arguments:
        suffix: makes an ``operation_id`` that of this route.
    """
    found = {**options, **made}
    ours, own = made.get("responses", {}), options.get("responses") or {}
    found["responses"] = {**ours, **own}
    if 200 in ours:
        found["responses"][200] = {**own.get(200, {}), **ours[200]}
    if options.get("operation_id"):
        found["operation_id"] = options["operation_id"] + suffix
    extra = dict(options.get("openapi_extra") or {})
    parameters = [
        *extra.get("parameters", []),
        *made.get("openapi_extra", {}).get("parameters", []),
    ]
    found["openapi_extra"] = extra | ({"parameters": parameters} if parameters else {})
    return found


def event_options(sse: SSE, options: Mapping[str, Any]) -> dict[str, Any]:
    """FastAPI's options for a route with ``sse=``; the user's own come first."""
    made = dict(options)
    own = options.get("responses") or {}
    statuses = [422]
    if sse.kind == "only":
        made["response_model"] = None
        made.setdefault("response_class", Response)
        made.setdefault("response_description", "The stream.")
        statuses.append(406)
    stream = {"schema": {"type": "string", "contentMediaType": _EVENT_STREAM}}
    answer = own.get(200, {})
    answer = {**answer, "content": {_EVENT_STREAM: stream, **answer.get("content", {})}}
    made["responses"] = {**problem_responses(statuses), **own, 200: answer}
    return made


def problem_responses(statuses: list[int]) -> dict[Any, Any]:
    return {
        status: {
            "description": _STATUS[status],
            "content": {_PROBLEM_JSON: {"schema": _INVALID if status == 422 else _PROBLEM}},
        }
        for status in statuses
    }


def install_openapi(app: FastAPI, *, item_schemas: bool, problems: bool) -> None:
    """Change the document of a whole application.

    Arguments:
        item_schemas: it becomes one of OpenAPI 3.2, with an ``itemSchema`` for each stream.
        problems: every operation's errors are described as problems.
    """
    if item_schemas:
        app.openapi_version = "3.2.0"
    plain = app.openapi
    # One that was made before is made again.
    app.openapi_schema = None

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            document = plain()
            if problems:
                _describe_problems(document)
            if item_schemas:
                document["openapi"] = app.openapi_version
                _describe_items(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document.get("paths", {}).values():
        yield from (each for each in path.values() if isinstance(each, dict))


def _describe_problems(document: dict[str, Any]) -> None:
    """Say that errors are problems. They become components, which the operations refer to."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for operation in _operations(document):
        responses = operation.setdefault("responses", {})
        for status in (401, 403) if operation.get("security") else ():
            responses.setdefault(str(status), problem_responses([status])[status])
        if "422" in responses and _PROBLEM_JSON not in responses["422"].get("content", {}):
            responses["422"] = problem_responses([422])[422]
        for response in responses.values():
            content = response.get("content", {})
            problem = content.get(_PROBLEM_JSON, {}).get("schema")
            if problem in (_PROBLEM, _INVALID):
                content[_PROBLEM_JSON] = {"schema": _component(problem, schemas)}
    _drop_unused(document, ["HTTPValidationError", "ValidationError"])


def _describe_items(document: dict[str, Any]) -> None:
    """Move what describes the events of a stream to ``itemSchema``."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    inlined: dict[str, None] = {}
    for operation in _operations(document):
        for status, response in operation.get("responses", {}).items():
            content = response.get("content", {})
            schema = content.get(_EVENT_STREAM, {}).get("schema")
            if schema is not None and status.startswith("2"):
                content[_EVENT_STREAM] = {"itemSchema": _inlined(schema, schemas, inlined)}
    _drop_unused(document, list(inlined))


def _component(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to this schema, as a component. An application may have one of that name."""
    name = schema["title"]
    while schemas.setdefault(name, schema) != schema:
        name = f"Headwater{name}"
    return {"$ref": f"#/components/schemas/{name}"}


def _inlined(
    schema: dict[str, Any], schemas: dict[str, Any], inlined: dict[str, None]
) -> dict[str, Any]:
    """The branches of a stream's events, each whole but for the models of its data."""
    if schema.get("type") == "string":
        return _ANY_EVENT
    found = _at(schema, schemas, inlined)
    return {"oneOf": [_at(each, schemas, inlined) for each in found.get("oneOf", [found])]}


def _at(
    schema: dict[str, Any], schemas: dict[str, Any], inlined: dict[str, None]
) -> dict[str, Any]:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    inlined[name] = None
    found: dict[str, Any] = schemas.get(name, schema)
    return found


def _drop_unused(document: dict[str, Any], names: list[str]) -> None:
    """Leave out those of these components that nothing refers to, in this order."""
    schemas = document["components"]["schemas"]
    for name in names:
        schema = schemas.pop(name, None)
        if f'"#/components/schemas/{name}"' in json.dumps(document, default=str):
            schemas[name] = schema
