"""Watches the tables of a live query for commits, on SQLite."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sqlalchemy as sa

from headwater.sql._reader import Tail
from headwater.sql.query._place import QueryPlace
from headwater.sql.sqlite._file_reader import State
from headwater.sql.sqlite._reader import RegistrationWatch


class CountersWatch(RegistrationWatch):
    """Wakes a live query when one of its tables moved.

    Arguments:
        at: which of the query's tables it is.
        changed: is called when the schema of the database is another one.
    """

    def __init__(
        self,
        engines: Sequence[sa.Engine],
        table: str,
        tail: Tail,
        at: int,
        changed: Callable[[], None],
    ) -> None:
        self._changed = changed
        self._tail = tail
        self._at = at
        super().__init__(engines, table, tail.read_on, table)

    def position(self) -> None:
        return None

    def on_news(self, seen: State, state: State, before: object) -> Callable[[], None] | None:
        if seen is None or state is None or seen[-1] != state[-1]:
            self._changed()
            return self.wake
        if seen[0] != state[0]:
            return self.wake
        head = self._tail.head
        if head is None or not isinstance(head.place, QueryPlace):
            return self.wake
        # Wake only for what no part of the query has yet.
        seen_by_query = [segment.seen.numbers[self._at] for segment in head.place.segments]
        return self.wake if min(seen_by_query) < state[1] else None
