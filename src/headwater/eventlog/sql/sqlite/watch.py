"""Wakes a log's reader after commits, by the watch of its SQLite file."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.sql.sqlite.watch import State, Watched

__all__ = ["Head", "Watch"]

# Epoch, count of trims, highest id ever given out: what changes with every commit to the log.
Head = tuple[str, int, int]


class Watch(Watched):
    """Wakes a reader unless it has read what was committed.

    Args:
        engine: its commits in this process wake at once.
        wake: called in the event loop.
        known: the head that the reader has. Called in the watch's thread.
    """

    query = (
        "SELECT 'log', l.epoch, l.trims, coalesce(s.seq, 0) FROM headwater_log AS l"
        " LEFT JOIN sqlite_sequence AS s ON s.name = 'headwater_events' WHERE l.id = 1"
    )
    # The reader finds out why the file cannot be read.
    wake_on_failure = True

    def __init__(
        self, engine: AsyncEngine, wake: Callable[[], None], known: Callable[[], Head | None]
    ) -> None:
        self._known = known
        super().__init__([engine.sync_engine], "headwater_events", wake, "log")

    def position(self) -> None:
        """The state alone says whether the reader has it."""

    def on_state(self, state: State, before: None) -> Callable[[], None] | None:  # noqa: ARG002
        # A log that was wiped has no state, which is a head that no reader has.
        return None if state == self._known() else self.wake
