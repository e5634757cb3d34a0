"""An item of any feed as one line of text that is safe to show in a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["json_line", "text_line"]

# The first of these that an item has is its time, and is printed first.
_TIMES = ("at", "created_at", "last_activity_at")


def text_line(item: Mapping[str, Any]) -> str:
    """The time, then ``name=value`` of all that is set, then the id: for reading.

    >>> text_line({"id": "7", "message": "disk full", "at": "2026-01-01T00:00:00Z"})
    '2026-01-01T00:00:00Z message="disk full" id=7'
    """
    first = next((name for name in _TIMES if isinstance(item.get(name), str)), None)
    names = [name for name in item if name not in (first, "id")]
    names += ["id"] if "id" in item else []
    words = [] if first is None else [_value(item[first])]
    words += [f"{_value(name)}={_value(item[name])}" for name in names if item[name] is not None]
    return " ".join(words)


def json_line(item: Mapping[str, Any]) -> str:
    """The item as one line of JSON, for programs."""
    return _escape(json.dumps(item, ensure_ascii=False, separators=(",", ":")))


def _value(value: Any) -> str:
    if isinstance(value, str) and value and value.isprintable() and not set(value) & set(' "='):
        return value
    return _escape(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _escape(text: str) -> str:
    # Other users write this text. A control character could move the cursor, rename the window
    # or hide text; in JSON each has a harmless spelling.
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable()
        else json.dumps(character)[1:-1].replace("\x7f", "\\u007f")
        for character in text
    )
