"""Pages of a live query, read in a transaction that has begun."""

from __future__ import annotations

from itertools import chain

from headwater.errors import PositionError
from headwater.feeds._source import Change, Filter, Page, Place
from headwater.sql._judging import Questions
from headwater.sql.query._changes import change_for, item_of
from headwater.sql.query._first_rows import poll_of
from headwater.sql.query._look import Look
from headwater.sql.query._place import Key, QueryPlace, Segment
from headwater.sql.query._poll import CHUNK, Queries


class Pages:
    """Reads pages."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._derivation = queries.derivation

    def before(self, look: Look, wanted: Filter, limit: int, below: Key | None) -> Page:
        """The last rows by key, or those below one.

        Of a query with LIMIT they are its first rows in its order; the first one is shown last.
        """
        limited = self._derivation.limit is not None
        if not limited:
            rows = self._queries.newest(look, wanted, limit + 1, below)
        else:
            rows = self._queries.first(look.connection, wanted)
            if below is not None:
                keys = [key for key, _ in rows]
                # A page whose beginning has left the window has nothing before it.
                rows = rows[keys.index(below) + 1 :] if below in keys else []
        shown = rows[:limit][::-1]
        end = QueryPlace.at_once(look.now)
        if below is not None and not limited:
            upper = (Segment(None, self._queries.nothing),)
            end = QueryPlace((Segment(shown[-1][0], look.now), *upper) if shown else upper)
        changes = [item_of(self._derivation, end, row) for _, row in shown]
        start = QueryPlace.at_once(look.now, shown[0][0] if shown else below)
        return Page(changes, start, end, len(rows) > limit, look.epoch)

    def after(self, look: Look, wanted: Filter, limit: int, place: QueryPlace) -> Page:
        """What changed after a place. Raises PositionError."""
        poll = poll_of(self._queries)(
            self._queries,
            look.connection,
            place,
            wanted,
            chunk=min(CHUNK, max(2 * limit, 50)),
            now=look,
            questions=Questions.about(wanted),
        )
        changes: list[Change] = []
        first: Key | None = None
        more = False
        for one in chain.from_iterable(poll.affected()):
            change = change_for(self._derivation, one, wanted)
            if change is None:
                continue
            if len(changes) == limit:
                more = True
                break
            first = one.key if first is None else first
            changes.append(change)
        end: Place = poll.end
        if more:
            last = changes[-1].place
            if last is None:
                # It came to too many pieces: a client that is always behind begins anew.
                raise PositionError(str(place), "expired")
            end = last
        start = QueryPlace.at_once(look.now, first)
        return Page(changes, start, end, more, look.epoch)
