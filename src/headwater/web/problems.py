"""Errors as RFC 9457 ``application/problem+json``, for FastAPI applications."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from headwater.errors import PositionError, SourceUnavailableError

__all__ = ["Problem", "install_problems", "problem_response"]

logger = logging.getLogger("headwater.web")

MEDIA_TYPE = "application/problem+json"
# Values that a log or a screen should never show again.
_SECRET = ("password", "token", "secret", "api_key", "authorization")
_LONGEST = 200
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
    detail: str,
    *,
    title: str | None = None,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> Response:
    """A problem as a response."""
    try:
        phrase = _PHRASES.get(status) or HTTPStatus(status).phrase
    except ValueError:
        phrase = "Error"
    body = {
        "type": "about:blank",
        "title": title or phrase,
        "status": status,
        "detail": detail,
        **members,
    }
    # ASCII, so that a lone surrogate in a refused value cannot break the answer about it.
    content = json.dumps(body, default=repr).encode()
    return Response(content, status, headers, MEDIA_TYPE)


def install_problems(app: FastAPI) -> None:
    """Answer all errors of ``app`` with problems."""
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(PositionError, _on_position)
    app.add_exception_handler(SourceUnavailableError, _on_unavailable)
    app.add_exception_handler(Exception, _on_error)


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code in (204, 205, 304):
        # RFC 9110, 15.3.5 and 15.4.5: these have no body.
        return Response(status_code=error.status_code, headers=error.headers)
    title, members = None, {}
    if isinstance(error, Problem):
        title, members = error.title, error.members
    return problem_response(
        error.status_code,
        str(error.detail),
        title=title,
        headers=error.headers,
        **members,
    )


async def _on_validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [_shown(each) for each in error.errors()]
    first = errors[0] if errors else {"field": "request", "detail": "it is not valid"}
    value = f"={json.dumps(first['value'], default=repr)}" if "value" in first else ""
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return problem_response(422, f"{first['field']}{value}: {first['detail']}{more}", errors=errors)


async def _on_position(_: Request, error: Exception) -> Response:
    assert isinstance(error, PositionError)
    return problem_response(
        410,
        f"{error}. Begin again without it.",
        title="Position cannot be resumed",
        reason=error.reason,
    )


async def _on_unavailable(_: Request, error: Exception) -> Response:
    assert isinstance(error, SourceUnavailableError)
    logger.warning("%s", error)
    return problem_response(
        503, f"{error.source} cannot be read just now; try again.", headers={"Retry-After": "2"}
    )


async def _on_error(_: Request, __: Exception) -> Response:
    # Starlette logs the traceback; the caller learns nothing of the inside.
    return problem_response(500, "Something went wrong on this side; it has been logged.")


def _shown(error: Mapping[str, Any]) -> dict[str, Any]:
    where, *path = error.get("loc") or ("request",)
    field = ".".join(str(part) for part in path) or str(where)
    shown: dict[str, Any] = {"field": field, "in": str(where)}
    secret = any(word in field.lower() for word in _SECRET)
    if error.get("type") not in ("missing", "json_invalid") and not secret and "input" in error:
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
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return f"{len(value)} items"
    text = repr(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
