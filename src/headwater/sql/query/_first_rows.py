"""What changed in the first rows of a query with LIMIT: a window for each value of its filters.

A change may move rows in and out of a window that it does not touch itself. So for each window that
a change leads to, the first rows of then and of now are read, and their difference is sent, with
the rows of now that are affected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from headwater.feeds._source import EVERYTHING, Filter
from headwater.sql.query._place import Key
from headwater.sql.query._poll import Affected, Poll, Queries, Values


class FirstRows(Poll):
    """A poll of a query with LIMIT. A place is one in the window of the client's own filter.

    For everything it looks at all windows that were touched, of which each has its keys ascending.
    """

    def affected(self) -> Iterator[Sequence[Affected]]:
        """All at once: a tail that breaks off in the middle could not say for whom."""
        self.done = True
        look = self.look
        if not (look.changed or look.gone):
            return
        windows = [self._wanted]
        if self._wanted == EVERYTHING:
            windows = self._queries.touched(look, self._place.oldest)
        found = [one for wanted in windows for one in self._window(wanted)]
        if found:
            yield found

    def _window(self, wanted: Filter) -> list[Affected]:
        queries, look = self._queries, self.look
        now = dict(queries.first(look.connection, wanted))
        held: dict[Key, Values] = {}
        moved: set[Key] = set()
        low: Key | None = None
        for segment in self._place.segments:
            then: dict[Key, Values] = {}
            if segment.seen != queries.nothing:
                then = queries.first_held(look, segment.seen, wanted)
            inside = _between(low, segment.bound)
            held |= {key: then[key] for key in filter(inside, then)}
            present = set(filter(inside, now))
            moved |= queries.among(look, segment.seen, [*present & then.keys()])
            moved |= present - then.keys()
            low = segment.bound
        changed = sorted({*moved, *(key for key in held if key not in now)})
        found = []
        for at, key in enumerate(changed):
            place = self.end
            if at < len(changed) - 1:
                place = self._place.after(key, look.now)
            row = now.get(key)
            gone = [held[key]] if row is None else []
            found.append(Affected(key, replace(place, last=key), row, gone))
        return found


def poll_of(queries: Queries) -> type[Poll]:
    """The kind of poll that a query needs."""
    return Poll if queries.derivation.limit is None else FirstRows


def _between(low: Key | None, high: Key | None) -> Callable[[Key], bool]:
    return lambda key: (low is None or key > low) and (high is None or key <= high)
