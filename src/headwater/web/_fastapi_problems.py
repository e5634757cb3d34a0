"""Problems in a FastAPI application: for Headwater's own routes, or for all of them.

An application's own handler always decides first, also for errors of Headwater's routes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from headwater.errors import PositionError, SourceUnavailableError, UnfitItemError
from headwater.web import problems
from headwater.web.problems import internal_problem, validation_error

# What FastAPI installs by itself.
_DEFAULTS: tuple[Any, ...] = (http_exception_handler, request_validation_exception_handler)


def install_problems(app: FastAPI) -> None:
    """Answer all errors of ``app`` with problems, but for those that it has a handler for."""
    for kind in (
        HTTPException,
        RequestValidationError,
        PositionError,
        SourceUnavailableError,
        UnfitItemError,
        Exception,
    ):
        present = app.exception_handlers.get(kind)
        if kind is Exception and present is None:
            # Starlette takes a handler of either for all that nobody expected.
            present = app.exception_handlers.get(500)
        if present is None or present in _DEFAULTS:
            app.add_exception_handler(kind, _answer)


async def _answer(_: Request, error: Exception) -> Response:
    return _problem_of(error) or internal_problem()


def _problem_of(error: Exception) -> Response | None:
    if isinstance(error, RequestValidationError):
        error = validation_error(error.errors())
    return problems.problem_of(error)


own_problem = partial(problems.own_problem, problem=_problem_of, defaults=_DEFAULTS)
