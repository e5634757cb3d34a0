"""Base models and field types for the bodies of all domains."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Path, Query, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, StringConstraints

from headwater.eventlog._record import TOO_DEEP, is_too_deep

# What a route declares that answers without a body.
NO_CONTENT: dict[str, Any] = {"status_code": 204, "response_class": Response}
MAX_LIST = 100
_MAX_FIELDS = 16_384
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Body(BaseModel):
    """A request's body. Unknown fields are refused, so that a misspelt field is noticed."""

    model_config = ConfigDict(extra="forbid")


class Result(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(from_attributes=True)


def normal_email(text: str) -> str:
    """The normal spelling of an e-mail address."""
    return text.strip().casefold()


def _is_email(text: str) -> str:
    local, _, host = text.rpartition("@")
    if not local or not host or any(each.isspace() for each in text) or _CONTROL.search(text):
        raise ValueError("it is not an e-mail address, such as ann@example.com")
    return text


def is_one_line(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("line breaks and control characters are not allowed")
    return text


def _has_no_nul(text: str) -> str:
    # PostgreSQL stores none, and a backend is the same on either database.
    if "\x00" in text:
        raise ValueError("a NUL character (U+0000) cannot be stored; leave it out")
    return text


def _is_storable(value: dict[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("it holds a lone surrogate, which no text can carry") from None
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if size > _MAX_FIELDS:
        raise ValueError(f"{size} bytes as JSON; at most {_MAX_FIELDS} are allowed")
    if is_too_deep(text):
        raise ValueError(TOO_DEEP)
    return value


def in_utc(moment: datetime) -> datetime:
    """The same moment in UTC. Raises ValueError where Python has none."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC it is outside of the years 1 to 9999") from None


Email = Annotated[
    str,
    AfterValidator(normal_email),
    StringConstraints(max_length=254),
    AfterValidator(_is_email),
]
Identifier = Annotated[
    str, StringConstraints(min_length=1, max_length=64), AfterValidator(is_one_line)
]
# In a path: one with a control character is nothing's.
PathId = Annotated[str, Path(max_length=64), AfterValidator(is_one_line)]
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=100),
    AfterValidator(is_one_line),
]
Line = Annotated[str, StringConstraints(max_length=200), AfterValidator(is_one_line)]
Text = Annotated[str, StringConstraints(max_length=16_384), AfterValidator(_has_no_nul)]
Moment = Annotated[AwareDatetime, AfterValidator(in_utc)]
Fields = Annotated[dict[str, Any], AfterValidator(_is_storable)]

Limit = Annotated[int, Query(ge=1, le=MAX_LIST, description=f"Rows, 1 to {MAX_LIST}.")]
