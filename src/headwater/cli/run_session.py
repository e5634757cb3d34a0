"""Follows an address that may be a feed or a run."""

from __future__ import annotations

import json
from typing import Any

from headwater.cli.run_output import EXIT_CODES
from headwater.client._feed_session import FeedSession
from headwater.client._run import RunEvent, run_event
from headwater.client._values import FeedValue
from headwater.protocol import Message


class RunOrFeedSession(FeedSession):
    """Follows a feed, or a run: the first event says which.

    Attributes:
        is_run: True for a run, False for a feed; None before it is known.
    """

    is_run: bool | None = None

    def read(self, found: Any) -> FeedValue[Any] | RunEvent | None:  # type: ignore[override]
        """As in FeedSession; the events of a run as ``RunEvent``."""
        if isinstance(found, Message):
            if self.is_run is None:
                self.is_run = _begins_run(found)
            if self.is_run and found.event not in ("error", "snapshot"):
                return run_event(found)
        return super().read(found)


def _begins_run(message: Message) -> bool | None:
    """Whether this event is of a run; None if only a later event can say."""
    if message.event in ("reset", "error"):
        return None
    if message.event == "run":
        # In the stream of a run this event has no id. In a feed of runs it has one.
        return not message.last_event_id
    try:
        data = json.loads(message.data)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and (
        (message.event == "delta" and set(data) == {"text"})
        or (message.event == "restart" and set(data) == {"attempt"})
        or (message.event == "end" and data.get("state") in EXIT_CODES)
    )
