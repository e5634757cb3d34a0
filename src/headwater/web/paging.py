"""The paging parameters that every feed has: read, checked and described once for all feeds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import QueryParams

from headwater.feeds.feed import MAX_LIMIT

__all__ = ["MAX_WAIT", "NAMES", "Paging", "described", "read_paging", "read_query"]

# Seconds of a long-poll: below the idle time-outs of common proxies.
MAX_WAIT = 60

NAMES = ("limit", "after", "before", "wait")

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(\.[0-9]{0,9})?")


@dataclass(frozen=True, slots=True)
class Paging:
    """What a request asks of a feed, beside the feed's own parameters.

    Attributes:
        limit: items of a page.
        after, before: positions as they came, or None.
        wait: seconds of a long-poll.
        errors: what is wrong, in pydantic's form; empty when all is right.
    """

    limit: int
    after: str | None
    before: str | None
    wait: float
    errors: list[dict[str, Any]]


# Queries that are kept as read: short ones, without a position, are the same for many requests.
_SHORT = 48
_MOST = 256
_known: dict[bytes, QueryParams] = {}
_pagings: dict[tuple[bytes, int, bool], Paging] = {}


def read_query(request: Request) -> QueryParams:
    """A request's query, which is read anew only where it is not a common one."""
    text = request.scope.get("query_string", b"")
    found = _known.get(text)
    if found is None:
        found = request.query_params
        if len(text) <= _SHORT:
            if len(_known) >= _MOST:
                _known.clear()
            _known[text] = found
    else:
        request._query_params = found
    return found


def read_paging(request: Request, limit: int, *, stream: bool) -> Paging:
    """Read the paging parameters of a request. ``limit`` is the feed's default."""
    text = request.scope.get("query_string", b"")
    found = _pagings.get((text, limit, stream))
    if found is None:
        found = _read(read_query(request), limit, stream=stream)
        if len(text) <= _SHORT and not found.errors:
            if len(_pagings) >= _MOST:
                _pagings.clear()
            _pagings[text, limit, stream] = found
    return found


def _read(query: QueryParams, limit: int, *, stream: bool) -> Paging:
    errors: list[dict[str, Any]] = []
    wait = 0.0
    text = query.get("limit")
    if text is not None:
        if _WHOLE.fullmatch(text) and 1 <= int(text) <= MAX_LIMIT:
            limit = int(text)
        else:
            errors.append(_error("limit", text, f"must be a whole number from 1 to {MAX_LIMIT}"))
    after, before = query.get("after"), query.get("before")
    if after is not None and before is not None and not stream:
        errors.append(_error("before", before, "goes without `after`: send one of the two"))
    text = None if stream else query.get("wait")
    if text is not None:
        if _NUMBER.fullmatch(text) and 0 <= float(text) <= MAX_WAIT:
            wait = float(text)
        else:
            errors.append(_error("wait", text, f"must be seconds from 0 to {MAX_WAIT}"))
    return Paging(limit, after, before, wait, errors)


def _error(name: str, value: str, sentence: str) -> dict[str, Any]:
    return {"type": "value_error", "loc": ("query", name), "msg": sentence, "input": value}


def described(limit: int, *, stream: bool) -> list[dict[str, Any]]:
    """The parameters as OpenAPI has them."""
    page = "the snapshot" if stream else "a page"
    found = [
        _parameter(
            "limit",
            f"Items of {page}, 1 to {MAX_LIMIT}.",
            {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": limit},
        ),
        _parameter("after", "A position: only the items after it.", {"type": "string"}),
        _parameter("before", "A page's `start`: the page that ends before it.", {"type": "string"}),
    ]
    if not stream:
        found.append(
            _parameter(
                "wait",
                "Seconds to wait for an item when there is none yet (long-poll).",
                {"type": "number", "minimum": 0, "maximum": MAX_WAIT, "default": 0},
            )
        )
    return found


def _parameter(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": False,
        "description": description,
        "schema": {"title": name.title(), **schema},
    }
