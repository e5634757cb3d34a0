"""The problems that services answer with."""

from __future__ import annotations

import math
from typing import Any

from headwater.web.problems import Problem


def unauthorized(detail: str = "Sign in, or send an API key as a bearer token.") -> Problem:
    """401: the caller is not signed in, or no longer."""
    return Problem(401, detail, headers={"WWW-Authenticate": 'Bearer realm="headwater"'})


def not_found(kind: str, value: str) -> Problem:
    """404: it does not exist, or the caller may not know that it does."""
    return Problem(404, f"There is no {kind} {value[:64]!r}.")


def invalid(field: str, detail: str, *, where: str = "body", **shown: Any) -> Problem:
    """422: an invalid field, in the form of a failed validation.

    Arguments:
        field: such as ``"activities.3.user_id"``.
        detail: what is wrong, and what would be right.
        where: ``"body"``, ``"query"`` or ``"header"``.
        shown: ``value=``, unless it must not be repeated.
    """
    error = {"field": field, "in": where, **shown, "detail": detail}
    value = f"={shown['value']!r}" if "value" in shown else ""
    return Problem(422, f"{field}{value}: {detail}", errors=[error])


def too_many(detail: str, seconds: float) -> Problem:
    """429: retry after so many seconds, rounded up."""
    return Problem(429, detail, headers={"Retry-After": str(math.ceil(seconds))})
