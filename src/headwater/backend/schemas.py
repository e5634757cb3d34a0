"""Base models and field types for the bodies of all domains."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from fastapi import Query
from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

__all__ = [
    "After",
    "Body",
    "Email",
    "Fields",
    "Identifier",
    "Limit",
    "Line",
    "Name",
    "Result",
    "Text",
    "normal_email",
]

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


def _is_one_line(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("line breaks and control characters are not allowed")
    return text


def _is_storable(value: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(value, allow_nan=False, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        raise ValueError("it holds a lone surrogate, which no text can carry") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if size > _MAX_FIELDS:
        raise ValueError(f"{size} bytes as JSON; at most {_MAX_FIELDS} are allowed")
    return value


Email = Annotated[
    str,
    AfterValidator(normal_email),
    StringConstraints(max_length=254),
    AfterValidator(_is_email),
]
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=100),
    AfterValidator(_is_one_line),
]
Line = Annotated[str, StringConstraints(max_length=200), AfterValidator(_is_one_line)]
Text = Annotated[str, StringConstraints(max_length=16_384)]
Fields = Annotated[dict[str, Any], AfterValidator(_is_storable)]

Limit = Annotated[int, Query(ge=1, le=MAX_LIST, description=f"Rows, 1 to {MAX_LIST}.")]
After = Annotated[
    str | None,
    Query(max_length=64, description="The `id` of the last row of the page before this one."),
]
