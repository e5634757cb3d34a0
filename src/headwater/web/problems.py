"""Errors as RFC 9457 ``application/problem+json``."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from headwater.errors import PositionError, SourceUnavailableError, UnfitItemError
from headwater.web._user_functions import as_coroutine
from headwater.web._whole_responses import StreamRefusedError, refuse_stream
from headwater.web.asgi import Receive, Scope, Send, Sending

__all__ = ["Problem", "problem_response"]

logger = logging.getLogger("headwater.web")

MEDIA_TYPE = "application/problem+json"
# Fields with these words in their names have values that no answer or log repeats.
_SECRET = ("password", "token", "secret", "api_key", "authorization")
_LONGEST = 200
# Errors of one request that are listed: a body of a thousand unknown fields is one mistake.
_MOST_ERRORS = 20
# Statuses of problems that pass by themselves.
_TEMPORARY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
# Seconds until a client comes back, where the answer does not say.
_RETRY = 2
# As RFC 9110 has them; older Pythons know these by earlier names.
_PHRASES = {413: "Content Too Large", 422: "Unprocessable Content"}


class Problem(HTTPException):
    """An HTTP error with a problem body.

    Arguments:
        status: the HTTP status code.
        detail: one sentence: which value, what is wrong, what would be right.
        title: a short name of the kind of problem; the status's own phrase by default.
        headers: further headers of the answer.
        members: further members of the body.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        title: str | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(status, detail, dict(headers) if headers else None)
        self.title = title
        self.members = members


def problem_response(
    status: int,
    detail: Any,
    *,
    title: str | None = None,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> Response:
    """A problem as a response. ``detail`` is a sentence; an application's own may be any JSON."""
    try:
        phrase = _PHRASES.get(status) or HTTPStatus(status).phrase
    except ValueError:
        phrase = "Error"
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": title or phrase,
        "status": status,
        "detail": detail,
        **members,
    }
    # ASCII, so that a lone surrogate in a refused value cannot break the answer about it.
    content = json.dumps(body, default=repr).encode()
    return Response(content, status, headers, MEDIA_TYPE)


def problem_of(error: Exception) -> Response | None:
    """The problem that an error of Headwater or an HTTPException stands for; None for others."""
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, PositionError):
        return problem_response(
            410,
            f"{error}. Begin again without it.",
            title="Position cannot be resumed",
            reason=error.reason,
        )
    if isinstance(error, SourceUnavailableError):
        logger.warning("%s", error)
        sentence = f"{error.for_clients}; try again."
        return problem_response(503, sentence, headers={"Retry-After": "2"})
    if isinstance(error, UnfitItemError):
        # The log names the item.
        return problem_response(
            500,
            "An item of this page does not fit the model of its feed, and cannot be shown until it "
            "is mended.",
            title="Item cannot be shown",
            headers={"Retry-After": str(-(-error.retry // 1000))},
        )
    return None


async def serve_with_problems(
    serve: Callable[[Sending], Awaitable[None]],
    problem: Callable[[Exception, Any], Response | None],
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    stream: bool,
) -> None:
    """Answer a request; an error before anything was sent becomes a problem.

    Arguments:
        serve: answers, with the ``send`` that it is given.
        problem: what an error is answered with, given the application; None to raise it on.
        stream: a client that is a browser's EventSource must not be lost to what is temporary.
    """
    sending = Sending(send)
    head = scope["method"] == "HEAD"
    try:
        await serve(sending)
    except StreamRefusedError as refused:
        await refuse_stream(sending.direct, refused, head=head)
    except Exception as error:
        if sending.begun:
            raise
        app = scope.get("app")
        answer = problem(error, app)
        handled = answer is None
        if handled and stream:
            answer = await _of_application(error, app, Request(scope, receive))
        if answer is None:
            raise
        if stream and answer.status_code in _TEMPORARY:
            retry = 1000 * _seconds(answer.headers.get("retry-after"))
            refusal = StreamRefusedError(_reason(error), retry)
            await refuse_stream(sending.direct, refusal, head=head)
            return
        await answer(scope, receive, send)
        expected = handled or isinstance(error, (HTTPException, UnfitItemError))
        if answer.status_code == 500 and not expected:
            # The server logs it.
            raise


def refused_problem(refused: StreamRefusedError, status: int) -> Problem:
    """What a client that is no browser's EventSource gets for a stream that is refused."""
    again = str(-(-refused.retry // 1000))
    return Problem(status, f"{refused}.".capitalize(), headers={"Retry-After": again})


def own_problem(
    error: Exception,
    app: Any,
    *,
    problem: Callable[[Exception], Response | None] = problem_of,
    defaults: Collection[Any] = (),
) -> Response | None:
    """What a route of Headwater answers for an error; None where the application decides.

    Arguments:
        problem: of an error that is expected.
        defaults: the handlers that the framework installs by itself, which decide nothing.
    """
    if _handler_of(error, app) not in (None, *defaults):
        return None
    expected = problem(error)
    if expected is not None:
        return expected
    handlers = getattr(app, "exception_handlers", {})
    decides = getattr(app, "debug", False) or Exception in handlers or 500 in handlers
    return None if decides else internal_problem()


def _handler_of(error: Exception, app: Any) -> Callable[..., Any] | None:
    """The application's own handler for an error, as Starlette finds it; not that for all."""
    handlers: Mapping[Any, Callable[..., Any]] = getattr(app, "exception_handlers", {})
    kinds = (kind for kind in type(error).__mro__ if kind is not Exception)
    handler = next((handlers[kind] for kind in kinds if kind in handlers), None)
    return handlers.get(error.status_code, handler) if isinstance(error, HTTPException) else handler


async def _of_application(error: Exception, app: Any, request: Request) -> Response | None:
    """What the application's own handler answers; None where it has none."""
    handler = _handler_of(error, app)
    if handler is None:
        return None
    answer = await as_coroutine(handler)(request, error)
    return answer if isinstance(answer, Response) else None


def _reason(error: Exception) -> str:
    """The reason that a stream gives its client, as one line."""
    said: Any = getattr(error, "detail", None) if isinstance(error, HTTPException) else None
    if isinstance(error, SourceUnavailableError):
        said = error.for_clients
    if not isinstance(said, str) or not said:
        return "the server cannot answer just now"
    return " ".join(said.encode(errors="replace").decode().split())[:_LONGEST]


def _seconds(retry_after: str | None) -> int:
    """RFC 9110, 10.2.3: the seconds; a date is not read."""
    given = retry_after is not None and retry_after.isascii() and retry_after.isdigit()
    return min(int(retry_after or 0), 86_400) if given else _RETRY


def internal_problem() -> Response:
    """The problem for a fault of the server. The log describes it; the caller is not told."""
    return problem_response(500, "Something went wrong on this side; it has been logged.")


def validation_error(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """The problem for values of a request that are not valid, as an error.

    Arguments:
        errors: in pydantic's form: ``loc``, ``msg``, ``type`` and ``input``. At most 20 are listed.
    """
    shown = [_shown(each) for each in errors[:_MOST_ERRORS]]
    first = shown[0] if shown else {"field": "request", "detail": "it is not valid"}
    value = f"={json.dumps(first['value'], default=repr)}" if "value" in first else ""
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(422, f"{first['field']}{value}: {first['detail']}{more}", errors=shown)


def _of_http(error: HTTPException) -> Response:
    if error.status_code in (204, 205, 304):
        # RFC 9110, 15.3.5 and 15.4.5: these have no body.
        return Response(status_code=error.status_code, headers=error.headers)
    title, members = None, {}
    if isinstance(error, Problem):
        title, members = error.title, error.members
    return problem_response(
        error.status_code, error.detail, title=title, headers=error.headers, **members
    )


def _shown(error: Mapping[str, Any]) -> dict[str, Any]:
    where, *path = error.get("loc") or ("request",)
    field = str(_short(".".join(str(part) for part in path) or str(where)))
    shown: dict[str, Any] = {"field": field, "in": str(where)}
    # A whole body may hold anything, a misspelt field a password, a cookie or a header a session.
    secret = (
        not path
        or where in ("cookie", "header")
        or any(word in field.lower() for word in _SECRET)
        or error.get("type") in ("missing", "json_invalid", "extra_forbidden")
    )
    if not secret and "input" in error:
        shown["value"] = _short(error["input"])
    detail = str(error.get("msg", "it is not valid"))
    cause = (error.get("ctx") or {}).get("error")
    if error.get("type") == "json_invalid":
        shown["field"], detail = "body", f"it is not JSON: {cause} at character {field}"
    shown["detail"] = detail
    return shown


def _short(value: Any) -> Any:
    if isinstance(value, (bool, int, type(None))):
        return value
    if isinstance(value, float):
        # JSON has no NaN and no infinity, though Python reads both.
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else value[:_LONGEST] + "…"
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} bytes"
    if isinstance(value, Sequence):
        return f"{len(value)} items"
    # What is inside may be a secret under any name.
    return "an object"
