"""Helpers for tests of your feeds, and of your own engine of an event log.

``LiveClient`` sends requests to an application or a server, and reads streams without waiting for
their end. ``running`` serves an application on a socket, ``Clock`` moves time, and
``assert_halves_agree`` compares a feed's two halves. ``parse_events`` and ``collect`` read an event
stream as a browser does. ``EventLogContract`` is the suite that every engine of an event log
passes; it needs pytest and pytest-asyncio. httpx, uvicorn and pytest are imported at the first use
of a name that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from headwater.testing._clock import Clock
from headwater.testing._events import collect, parse_events
from headwater.testing._server import running

if TYPE_CHECKING:
    from headwater.testing._agreement import assert_halves_agree as assert_halves_agree
    from headwater.testing._client import LiveClient as LiveClient
    from headwater.testing._client import LiveStream as LiveStream
    from headwater.testing._eventlog import EventLogContract as EventLogContract
    from headwater.testing._transport import StreamingTransport as StreamingTransport

__all__ = [
    "Clock",
    "EventLogContract",
    "LiveClient",
    "LiveStream",
    "StreamingTransport",
    "assert_halves_agree",
    "collect",
    "parse_events",
    "running",
]

_LATER = {
    "EventLogContract": "headwater.testing._eventlog",
    "LiveClient": "headwater.testing._client",
    "LiveStream": "headwater.testing._client",
    "StreamingTransport": "headwater.testing._transport",
    "assert_halves_agree": "headwater.testing._agreement",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
