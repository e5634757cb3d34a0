"""The routes of runs in the OpenAPI document: models, descriptions and responses."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, RootModel

from headwater.web._feed_models import HeadwaterError, HeadwaterReset, event_model
from headwater.web._openapi import problem_responses, stream_options
from headwater.web._run_item import HeadwaterRunItem


class HeadwaterRun(HeadwaterRunItem):
    """A run."""

    result: Any = Field(None, description="The result, any JSON value.")
    text: str | None = Field(None, description="The output so far, with `fold`.")


class HeadwaterDelta(BaseModel):
    """A piece of the output."""

    text: str


class HeadwaterRestart(BaseModel):
    """A queue tries again. Discard the output so far."""

    attempt: int


class HeadwaterEnd(BaseModel):
    """How the run ended."""

    state: Literal["done", "failed", "cancelled", "lost"]


def _event(name: str, data: Any, *, with_id: bool = True) -> Any:
    title = f"HeadwaterRun{name.title() or 'Own'}Event"
    return event_model(title, Literal[name] if name else str, data, with_id=with_id)


_STATE = _event("run", HeadwaterRun, with_id=False)
_DELTA = _event("delta", HeadwaterDelta)
_RESTART = _event("restart", HeadwaterRestart)
_END = _event("end", HeadwaterEnd)
_RESET = _event("reset", HeadwaterReset, with_id=False)
_ERROR = _event("error", HeadwaterError, with_id=False)
_OWN = _event("", Any)


class HeadwaterRunEvents(RootModel[_STATE | _DELTA | _RESTART | _END | _RESET | _ERROR | _OWN]):  # type: ignore[valid-type]
    """One event of the stream of a run. The application's own events have other names."""


_STREAM = (
    "The stream: `run`, then the events of the run from its start, or after `Last-Event-ID`, up to "
    "one `end`."
)
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Chosen by the caller, such as a UUID. For as long as the run is kept, the same "
    "key with the same body is answered with the same run.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
}


def _problems(*statuses: int) -> dict[Any, Any]:
    """Every route may refuse its caller, and checks its parameters."""
    return problem_responses([401, 403, *statuses, 422])


# FastAPI's options of the routes, by their names.
OPTIONS: dict[str, dict[str, Any]] = {
    "start": {
        "status_code": 202,
        "response_model": HeadwaterRun,
        "response_description": "The run, which has begun or waits. `Location` is its address. A "
        "client that accepts an event stream gets the run's stream.",
        "responses": _problems(409, 413, 429, 503),
        "openapi_extra": {"parameters": [_KEY]},
    },
    "state": {
        "response_model": HeadwaterRun,
        "responses": _problems(404, 503),
    },
    "stream": {
        **stream_options(
            HeadwaterRunEvents,
            _STREAM,
            {
                204: {"description": "The client has the `end` already."},
                **_problems(404, 406),
            },
        )
    },
    "cancel": {
        "status_code": 202,
        "response_model": HeadwaterRun,
        "response_description": "The run is cancelled, and ends soon.",
        "responses": {
            200: {"model": HeadwaterRun, "description": "The run had ended before."},
            **_problems(404, 503),
        },
    },
    "delete": {
        "status_code": 204,
        "response_model": None,
        "response_description": "The run and its output were removed.",
        "responses": _problems(404, 409, 503),
    },
}
