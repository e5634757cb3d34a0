"""The wall clock by which items leave time windows. Tests move it: ``headwater.testing.Clock``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_ahead = timedelta()


def utc_now() -> datetime:
    """The present time."""
    return datetime.now(UTC) + _ahead


def set_ahead(by: timedelta) -> None:
    """Let the clock of this process be so far ahead of the real one."""
    global _ahead
    _ahead = by
