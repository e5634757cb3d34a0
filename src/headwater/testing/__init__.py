"""For tests: of your own feeds, and of your own event-log engine.

``parse_events`` and ``collect`` read an event stream as a browser does. ``EventLogContract`` is
the suite that every engine of an event log passes; it needs pytest and pytest-asyncio, which are
imported only when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headwater.testing.events import collect, parse_events

if TYPE_CHECKING:
    from headwater.testing.eventlog import EventLogContract as EventLogContract

__all__ = ["EventLogContract", "collect", "parse_events"]


def __getattr__(name: str) -> Any:
    if name == "EventLogContract":
        from headwater.testing.eventlog import EventLogContract

        return EventLogContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
