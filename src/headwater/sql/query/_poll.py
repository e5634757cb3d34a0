"""The algorithm of a live query: what changed between a place and now, in one snapshot.

1. Look: take the snapshot, and find the tables with rows that changed or are gone since the place.
2. Affected keys: find the keys that these rows lead to, by the present and by the former links.
3. Rows: run the query for these keys, some hundred at a time.
4. Holders: find the values that a key's filters had at the place, and so the clients that had it.

Why it is exact: a result that exists at only one of the two moments was joined from at least one
row that changed in between. This also holds for an outer join that found no match and now finds
one. A way leads from that row to the key, by the links of one of the two moments.
docs/live-queries.md has the complete argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from headwater.errors import UsageError
from headwater.feeds._source import EVERYTHING, Filter
from headwater.sql._filters import form_of
from headwater.sql._judging import NO_QUESTIONS, Questions
from headwater.sql._unreadable import Unreadable
from headwater.sql.query._derivation import Derivation
from headwater.sql.query._look import Look, Looker
from headwater.sql.query._place import Key, QueryPlace
from headwater.sql.query._rows import read_rows
from headwater.sql.query._statements import KEYS, Statements

# Keys whose rows are read by one statement.
CHUNK = 500

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Affected:
    """A key that a change may have touched.

    Attributes:
        key: its raw values.
        place: the place of a client that was sent all keys up to this one.
        row: the present row; None if the query has none with this key.
        held: the values of key and filters, by name, with which clients may have had the row.
        compared: the values that filters compare, with the answers of the database.
    """

    key: Key
    place: QueryPlace
    row: Values | None
    held: Sequence[Values]
    compared: Values | None = None


class Queries:
    """Runs the statements of one query, in the transaction of a look."""

    def __init__(self, name: str, derivation: Derivation, looker: Looker) -> None:
        self.name = name
        self.derivation = derivation
        self.looker = looker
        self.nothing = looker.nothing
        self.renew_statements()
        self.width = len(derivation.key)
        self._held = (*derivation.key, *derivation.filters)

    def renew_statements(self) -> None:
        """Write the statements anew, for other types of the columns."""
        self.statements = Statements(self.derivation, self.looker.moments, self.looker.tables)

    def keys(
        self, look: Look, seen: Any, low: Key | None, high: Key | None, wanted: Filter
    ) -> Sequence[Key]:
        """At most ``KEYS`` affected keys above ``low`` and up to ``high``, ascending."""
        form, values = form_of(wanted)
        if not form.any_of or not (look.changed or look.gone):
            return ()
        query = self.statements.affected(
            look.changed, look.gone, form, low is not None, high is not None
        )
        values |= self.looker.moments.values(seen)
        values |= _numbered("low", low) | _numbered("high", high)
        return [tuple(row) for row in look.connection.execute(query, values)]

    def rows(
        self, look: Look, keys: Sequence[Key], wanted: Filter, questions: Questions = NO_QUESTIONS
    ) -> dict[Key, tuple[Values, Values]]:
        """The present rows with these keys, each with the values that filters compare."""
        form, values = form_of(wanted)
        values |= questions.parameters | {"keys": self._listed(keys)}
        found = read_rows(look.connection, self.statements.rows(form, questions.form), values)
        return {key: (row, compared) for key, row, compared in self._answered(found, questions)}

    def among(self, look: Look, seen: Any, keys: Sequence[Key]) -> set[Key]:
        """The affected keys among these."""
        if not keys or not (look.changed or look.gone):
            return set()
        query = self.statements.affected(look.changed, look.gone, among=True)
        values = self.looker.moments.values(seen) | {"keys": self._listed(keys)}
        return {tuple(row) for row in look.connection.execute(query, values)}

    def touched(self, look: Look, seen: Any) -> list[Filter]:
        """For a query with LIMIT: the filters whose first rows may have changed."""
        if not self.derivation.filters:
            return [EVERYTHING]
        query = self.statements.touched(look.changed, look.gone)
        rows = read_rows(look.connection, query, self.looker.moments.values(seen))
        # No filter is NULL, or a value that cannot be read.
        return [
            Filter.of(**dict(zip(self.derivation.filters, row, strict=True)))
            for row in rows
            if not any(value is None or isinstance(value, Unreadable) for value in row)
        ]

    def first(self, connection: sa.Connection, wanted: Filter) -> list[tuple[Key, Values]]:
        """The first rows of a query with LIMIT, in its order."""
        form, values = form_of(wanted)
        return list(self._read(read_rows(connection, self.statements.first(form), values)))

    def first_held(self, look: Look, seen: Any, wanted: Filter) -> dict[Key, Values]:
        """The first rows at the place: their keys, with the values of key and filters by name."""
        form, values = form_of(wanted)
        among = frozenset(one.table for one in self.derivation.core.occurrences)
        query = self.statements.first_held(look.gone & among, form)
        rows = read_rows(look.connection, query, values | self.looker.moments.values(seen))
        return {
            tuple(row[: self.width]): dict(zip(self._held, row[self.width :], strict=True))
            for row in rows
        }

    def newest(
        self, look: Look, wanted: Filter, count: int, below: Key | None
    ) -> list[tuple[Key, Values]]:
        """The last rows by key, descending."""
        form, values = form_of(wanted)
        query = self.statements.newest(form, below is not None)
        values |= {"count": count} | _numbered("low", below)
        return list(self._read(read_rows(look.connection, query, values)))

    def oldest(
        self,
        look: Look,
        wanted: Filter,
        count: int,
        low: Key | None,
        high: Key | None,
        questions: Questions = NO_QUESTIONS,
    ) -> list[tuple[Key, Values, Values]]:
        """The first rows by key, ascending, above ``low`` and up to ``high``, as ``rows``."""
        form, values = form_of(wanted)
        asked = questions.form
        query = self.statements.oldest(form, low is not None, high is not None, asked)
        values |= questions.parameters | {"count": count}
        values |= _numbered("low", low) | _numbered("high", high)
        return list(self._answered(read_rows(look.connection, query, values), questions))

    def exceeds(self, connection: sa.Connection, wanted: Filter, count: int) -> bool:
        """Whether there are more rows than this."""
        form, values = form_of(wanted)
        query = self.statements.beyond_count(form)
        return connection.execute(query, values | {"count": count}).first() is not None

    def holders(
        self, look: Look, seen: Any, keys: Sequence[Key], questions: Questions = NO_QUESTIONS
    ) -> dict[Key, list[Values]]:
        """For each key, the values that key and filters had at the place, by name."""
        among = frozenset(one.table for one in self.derivation.core.occurrences)
        query = self.statements.holders(look.gone & among, questions.form)
        values = self.looker.moments.values(seen) | {"keys": self._listed(keys)}
        found: dict[Key, list[Values]] = {}
        for row in read_rows(look.connection, query, values | questions.parameters):
            held = dict(zip(self._held, row[self.width :], strict=False))
            found.setdefault(tuple(row[: self.width]), []).append(questions.answered(row, held))
        return found

    def _listed(self, keys: Sequence[Key]) -> list[Any]:
        return [key[0] for key in keys] if self.width == 1 else list(keys)

    def _read(self, rows: Sequence[Any]) -> Iterator[tuple[Key, Values]]:
        return ((key, values) for _, key, values in self._keyed(rows))

    def _answered(
        self, rows: Sequence[Any], questions: Questions
    ) -> Iterator[tuple[Key, Values, Values]]:
        for row, key, shown in self._keyed(rows):
            yield key, shown, questions.answered(row[: len(row) - self.width], shown)

    def _keyed(self, rows: Sequence[Any]) -> Iterator[tuple[Sequence[Any], Key, Values]]:
        before: Key | None = None
        seen: set[Key] = set()
        for row in rows:
            key = tuple(row[len(row) - self.width :])
            if key == before or key in seen:
                raise UsageError(
                    f"{self.name} has two rows with the key {key!r}: the columns of key= must "
                    "identify a row"
                )
            seen.add(key)
            yield row, key, dict(zip(self.derivation.names, row, strict=False))


class Poll:
    """What changed between a place and now, on a connection whose transaction begins here.

    Arguments:
        now: the look, if the transaction has begun already.
        questions: the conditions of filters that the database evaluates for each row.

    Attributes:
        look: the look at the beginning of the transaction.
        end: the place of a client that was sent everything.
        done: whether the last keys were read.
    """

    def __init__(
        self,
        queries: Queries,
        connection: sa.Connection,
        place: QueryPlace,
        wanted: Filter = EVERYTHING,
        *,
        chunk: int = CHUNK,
        now: Look | None = None,
        questions: Questions = NO_QUESTIONS,
    ) -> None:
        self._queries = queries
        self._questions = questions
        self._place = place
        self._wanted = wanted
        self._chunk = chunk
        if now is None:
            queries.looker.begin(connection)
        self.look = queries.looker.look(connection, place)
        if now is not None:
            self.look = replace(self.look, now=now.now)
        self.end = QueryPlace.at_once(self.look.now)
        self.done = False

    def affected(self) -> Iterator[Sequence[Affected]]:
        """The keys that may have changed, ascending, some hundred at a time."""
        low: Key | None = None
        for segment in self._place.segments:
            if segment.seen == self._queries.nothing:
                yield from self._rows_of(low, segment.bound)
            elif not segment.seen.covers(self.look.now):
                yield from self._segment(segment.seen, low, segment.bound)
            low = segment.bound
        self.done = True

    def _rows_of(self, low: Key | None, high: Key | None) -> Iterator[Sequence[Affected]]:
        """All rows of a range of keys of which the client has seen nothing yet."""
        size = self._chunk
        while size == self._chunk:
            rows = self._queries.oldest(self.look, self._wanted, size, low, high, self._questions)
            size = len(rows)
            if rows:
                low = rows[-1][0]
                now = self.look.now
                yield [
                    Affected(key, self._place.after(key, now), row, (), compared)
                    for key, row, compared in rows
                ]

    def _segment(
        self, seen: Any, low: Key | None, high: Key | None
    ) -> Iterator[Sequence[Affected]]:
        while True:
            keys = self._queries.keys(self.look, seen, low, high, self._wanted)
            for at in range(0, len(keys), self._chunk):
                last = high is None and len(keys) < KEYS and at + self._chunk >= len(keys)
                self.done = last
                yield self._read(seen, keys[at : at + self._chunk])
            if len(keys) < KEYS:
                return
            low = keys[-1]

    def _read(self, seen: Any, keys: Sequence[Key]) -> Sequence[Affected]:
        queries, look = self._queries, self.look
        rows = queries.rows(look, keys, self._wanted, self._questions)
        held = queries.holders(look, seen, keys, self._questions)
        found = []
        for key in keys:
            row, compared = rows.get(key, (None, None))
            place = self._place.after(key, look.now)
            found.append(Affected(key, place, row, held.get(key, ()), compared))
        return found


def _numbered(name: str, key: Key | None) -> dict[str, Any]:
    return {} if key is None else {f"{name}_{at}": value for at, value in enumerate(key)}
