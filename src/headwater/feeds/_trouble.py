"""Items that do not fit their feed's model: what is known of each until it can be shown again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable

logger = logging.getLogger("headwater.feeds")

# Milliseconds after which a client comes back at the latest, however old the trouble is.
LONGEST_RETRY = 60_000

# Items that are remembered. The one that was met longest ago is forgotten first, and then counts
# as new: it is logged once more, and its clients come back sooner.
MOST_TROUBLES = 1000

# Seconds between two entries in the log about one item.
_LOG_EVERY = 60.0


class Troubles:
    """The items of one feed that could not be shown.

    Arguments:
        feed: its name, for the log.
        clock: returns seconds.

    Attributes:
        known: by item, in the order in which they were met last: since when, and when logged.
    """

    def __init__(self, feed: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._feed = feed
        self._clock = clock
        self.known: dict[Hashable, tuple[float, float]] = {}

    def met(self, item: str, problem: str, *, skipped: bool) -> int:
        """Note an item that cannot be shown. Returns the milliseconds that its trouble is old."""
        now = self._clock()
        since, logged = self.known.pop(item, (now, now - _LOG_EVERY))
        if now - logged >= _LOG_EVERY:
            logged = now
            outcome = "it is left out" if skipped else "the feed waits there until it is mended"
            logger.error("feed %r cannot show %s: %s; %s", self._feed, item, problem, outcome)
        self.known[item] = since, logged
        if len(self.known) > MOST_TROUBLES:
            del self.known[next(iter(self.known))]
        return int((now - since) * 1000)

    def over(self, item: str) -> None:
        """Note that an item can be shown."""
        if self.known.pop(item, None) is not None:
            logger.warning("feed %r can show %s again", self._feed, item)
