"""``--filter`` and ``--since``: which items of a feed are shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import typer

from headwater.cli.lines import time_of
from headwater.errors import UsageError

_FILTER = re.compile(r"(?P<name>[^\s=!~<>]+)(?P<operator>!=|<=|>=|=|~|<|>)(?P<value>.*)", re.DOTALL)
_DURATION = re.compile(r"(?P<number>[0-9]{1,9})(?P<unit>[smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


@dataclass(frozen=True, slots=True)
class Filter:
    """What one member of an item must be."""

    name: str
    operator: str
    value: str

    def matches(self, item: Mapping[str, Any]) -> bool:
        """Whether the item is shown. An item without the member only passes ``!=``."""
        found: Any = item
        for name in self.name.split("."):
            if not isinstance(found, Mapping) or name not in found:
                return self.operator == "!="
            found = found[name]
        if self.operator == "~":
            return self.value.casefold() in _text(found).casefold()
        if self.operator in ("=", "!="):
            return self._equals(found) is (self.operator == "=")
        compare, number = _ORDER[self.operator], _number(self.value)
        if isinstance(found, (int, float)) and not isinstance(found, bool):
            return number is not None and compare(found, number)
        return isinstance(found, str) and compare(found, self.value)

    def _equals(self, found: Any) -> bool:
        if isinstance(found, (int, float)) and not isinstance(found, bool):
            return found == _number(self.value)
        return _text(found) == self.value


def parse_filter(text: str) -> Filter:
    """Read ``level=error``. Raises typer.BadParameter."""
    found = _FILTER.fullmatch(text)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is not a filter: write level=error, level!=debug, message~disk, or "
            "cpu_percent>90; a member of a member is fields.host"
        )
    return Filter(found["name"], found["operator"], found["value"])


def parse_since(text: str, now: datetime) -> datetime:
    """The moment that ``10m`` or ``2026-01-31T12:00:00Z`` means. Raises typer.BadParameter."""
    found = _DURATION.fullmatch(text.strip())
    try:
        if found is not None:
            return now - timedelta(**{_UNITS[found["unit"]]: int(found["number"])})
        moment = datetime.fromisoformat(text.strip())
        # A time without a zone is local time.
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is not a time: write 90s, 10m, 2h, 1d, or 2026-01-31T12:00"
        ) from None


def moment_of(item: Mapping[str, Any]) -> datetime:
    """An item's own time. Raises UsageError if it has none."""
    try:
        moment = datetime.fromisoformat(time_of(item) or "")
    except ValueError:
        raise UsageError(
            "--since works for items with a time in their member at, created_at or "
            "last_activity_at; this feed's items have none"
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
