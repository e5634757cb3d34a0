"""Heartbeats: one shared timer for all streams, whatever their number and intervals.

A comment after some seconds of silence keeps proxies from closing an idle connection and finds
dead peers (WHATWG HTML, 9.2.7: "authors can include a comment line (one starting with a ':'
character) every 15 seconds or so"). A busy stream only notes when it last wrote. When its heartbeat
falls due, that time decides whether one is sent and when the next is due.

Browsers hide comments from scripts. A client that asks for it gets its heartbeats as events, the
first one at once, so that it notices a line that is dead.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import logging
from typing import Protocol

from headwater.protocol import frame

logger = logging.getLogger("headwater.delivery")


def heartbeat_event(
    event: str | None, interval: float | None, envelope: str | None = None
) -> bytes:
    """A heartbeat that scripts can see. It has no ``id``, so it moves no position.

    Arguments:
        event: the name of the feed's events, which an EventSource must know to receive them; None
            for a stream that is no feed.
        interval: seconds of silence before the next one; None where there are none.
        envelope: the member of the feed's envelope that has its content; None without an envelope.
    """
    said = {"event": event, "interval": interval}
    if envelope is not None:
        said["envelope"] = envelope
    data = json.dumps(said, separators=(",", ":"))
    return frame("heartbeat", None, data.encode())


class Beating(Protocol):
    """What a heartbeat needs of a stream.

    Attributes:
        heartbeat: seconds of silence after which it gets one.
        last_written: the loop's time of the last write.
    """

    heartbeat: float | None

    @property
    def last_written(self) -> float: ...

    def beat(self) -> None:
        """Send a heartbeat, unless bytes wait to be sent."""
        ...


class Token:
    """A stream's entry in the heap. ``remove`` empties it, so that the stream can be freed."""

    __slots__ = ("due", "stream")

    def __init__(self, stream: Beating, due: float) -> None:
        self.stream: Beating | None = stream
        self.due = due

    def __lt__(self, other: Token) -> bool:
        return self.due < other.due


class Heartbeats:
    """The heartbeats of one event loop."""

    def __init__(self) -> None:
        self._heap: list[Token] = []
        self._timer: asyncio.Handle | None = None
        # The timer's time. uvloop's handle does not know it if it was past when the timer was set.
        self._wakes = 0.0

    def add(self, stream: Beating) -> Token | None:
        """Send a heartbeat whenever ``stream`` was silent for so long; None if it wants none."""
        if stream.heartbeat is None:
            return None
        token = Token(stream, asyncio.get_running_loop().time() + stream.heartbeat)
        heapq.heappush(self._heap, token)
        if self._timer is None or token.due < self._wakes:
            self._set_timer()
        return token

    def remove(self, token: Token) -> None:
        """Send no more heartbeats to this stream. Idempotent."""
        token.stream = None

    def close(self) -> None:
        """Cancel the timer and forget all streams."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._heap.clear()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            self._wakes = self._heap[0].due
            self._timer = asyncio.get_running_loop().call_at(self._wakes, self._send_due)

    def _send_due(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        again: list[Token] = []
        while self._heap and self._heap[0].due <= now:
            token = heapq.heappop(self._heap)
            stream = token.stream
            if stream is None or stream.heartbeat is None:
                continue
            token.due = stream.last_written + stream.heartbeat
            if token.due <= now:
                try:
                    stream.beat()
                except Exception:
                    logger.exception("a heartbeat could not be sent")
                token.due = now + stream.heartbeat
            again.append(token)
        for token in again:
            heapq.heappush(self._heap, token)
        self._set_timer()
