"""An item of any feed as one line of text that is safe to show in a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# The first of these that an item has is its time, and is printed first.
_TIMES = ("at", "created_at", "last_activity_at")

# Those of log entries and of notifications. What is normal has no colour.
_STYLES: dict[str, dict[str, Any]] = {
    "debug": {"dim": True},
    "success": {"fg": "green"},
    "warning": {"fg": "yellow"},
    "error": {"fg": "red"},
    "critical": {"fg": "red", "bold": True},
}


def text_line(item: Mapping[str, Any]) -> str:
    """The time, then ``name=value`` of all that is set, then the id: for reading.

    >>> text_line({"id": "7", "message": "disk full", "at": "2026-01-01T00:00:00Z"})
    '2026-01-01T00:00:00Z message="disk full" id=7'
    """
    first = _time_name(item)
    names = [name for name in item if name not in (first, "id")]
    names += ["id"] if "id" in item else []
    words = [] if first is None else [_value(item[first])]
    words += [f"{_value(name)}={_value(item[name])}" for name in names if item[name] is not None]
    return " ".join(words)


def time_of(item: Mapping[str, Any]) -> str | None:
    """The item's own time as it stands in the item; None where it has none."""
    name = _time_name(item)
    return None if name is None else str(item[name])


def in_colour(item: Mapping[str, Any], line: str) -> str:
    """The line in the colour of the item's level, for a terminal."""
    import typer

    level = item.get("level")
    style = _STYLES.get(level) if isinstance(level, str) else None
    return line if style is None else typer.style(line, **style)


def json_line(item: Mapping[str, Any]) -> str:
    """The item as one line of JSON, for programs."""
    return _escape(json.dumps(item, ensure_ascii=False, separators=(",", ":")))


def plain_text(text: str) -> str:
    """Text of a run as it is, without what a terminal would take for a command."""
    # A zero-width joiner makes one picture of several.
    kept = {"\n", "\t", "\u200d"}
    return "".join(one if one in kept else _escape(one) for one in text)


def _time_name(item: Mapping[str, Any]) -> str | None:
    return next((name for name in _TIMES if isinstance(item.get(name), str)), None)


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
