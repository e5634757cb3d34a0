"""A client of a live query, on plain connections: what it was sent, and what it should have."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import sqlalchemy as sa

from headwater.errors import PositionError
from headwater.feeds._source import EVERYTHING, Filter
from headwater.sql._model import tracking_of
from headwater.sql.query._derivation import Derivation
from headwater.sql.query._first_rows import FirstRows
from headwater.sql.query._look import PostgreSQLLooker, SQLiteLooker
from headwater.sql.query._place import QueryPlace
from headwater.sql.query._poll import Poll, Queries


def queries_of(derivation: Derivation, dialect: str, number: int) -> Queries:
    names = {table: tracking_of(table).name for table in derivation.tables}
    looker = (PostgreSQLLooker if dialect == "postgresql" else SQLiteLooker)(
        f"query {number}", names, derivation.links, str(number)
    )
    return Queries(f"query {number}", derivation, looker)


class Tail:
    """Follows a query with one filter, in pieces."""

    def __init__(
        self, queries: Queries, pick: random.Random, tenant: int | None, *, filtered: bool
    ) -> None:
        self.queries = queries
        self.pick = pick
        self.tenant = tenant
        self.filter = (
            Filter.of(**{next(iter(queries.derivation.filters)): tenant})
            if filtered and tenant is not None
            else EVERYTHING
        )
        self.place: str | None = None
        self.epoch = ""
        self.map: dict[Any, Any] = {}
        self.compared = self.partial = self.resets = self.segments = 0
        self.early = 0

    def step(self, engine: sa.Engine) -> None:
        """Poll, perhaps not to the end; compare what was sent with the query."""
        with engine.connect() as connection:
            if self.place is None:
                with contextlib.suppress(sa.exc.OperationalError):
                    self._begin(connection)
            else:
                try:
                    self._poll(connection)
                except PositionError:
                    self.resets += 1
                    self.place = None
                except sa.exc.OperationalError as error:
                    # A TRUNCATE that is not committed yet has the table.
                    assert "lock timeout" in str(error)

    def _begin(self, connection: sa.Connection) -> None:
        looker = self.queries.looker
        looker.begin(connection)
        look = looker.look(connection, None)
        self.place, self.epoch = str(QueryPlace.at_once(look.now)), look.epoch
        self.map = self.expected(connection)

    def _poll(self, connection: sa.Connection) -> None:
        place = self._parsed()
        limited = self.queries.derivation.limit is not None
        every = self.filter == EVERYTHING
        if limited:
            poll = FirstRows(self.queries, connection, place, None if every else self.filter)
        else:
            poll = Poll(self.queries, connection, place, self.filter, chunk=self.pick.randint(1, 5))
        if poll.look.epoch != self.epoch:
            raise PositionError(str(place), "unknown")
        stop = self.pick.randint(1, 6) if self.pick.random() < 0.5 else None
        if limited and every:
            stop = None  # a place in a window is of that window alone
        sent = 0
        for chunk in poll.affected():
            for one in chunk:
                self.take(one)
                sent += 1
                if sent == stop:
                    self.partial += 1
                    self.place = str(one.place)
                    self.segments = max(self.segments, len(one.place.segments))
                    return
        self.place = str(poll.end)
        expected = self.expected(connection)
        assert self.map == expected, self.explain(expected)
        self.compared += 1

    def take(self, one: Any) -> None:
        name = next(iter(self.queries.derivation.filters))
        row = one.row
        if row is not None and (self.tenant is None or row[name] == self.tenant):
            self.map[one.key] = row
        elif self.tenant is None or any(held[name] == self.tenant for held in one.held):
            if one.held:
                early = self.map.pop(one.key, None) is None
                assert not (early and self.queries.derivation.certain), one
                self.early += early

    def expected(self, connection: sa.Connection) -> dict[Any, Any]:
        wanted = EVERYTHING
        if self.tenant is not None:
            wanted = Filter.of(**{next(iter(self.queries.derivation.filters)): self.tenant})
        if self.queries.derivation.limit is not None:
            return dict(self.queries.first(connection, wanted))
        return dict(self.queries.newest(connection, wanted, 100_000, None))

    def explain(self, expected: dict[Any, Any]) -> str:
        wrong = {
            key: (self.map.get(key), expected.get(key))
            for key in {*self.map, *expected}
            if self.map.get(key) != expected.get(key)
        }
        return f"{self.queries.derivation.select}\ntenant {self.tenant}: {wrong}"

    def _parsed(self) -> QueryPlace:
        assert self.place is not None
        derivation = self.queries.derivation
        kinds = tuple(
            str if isinstance(one.table.c[name].type, sa.String) else int
            for one, name in derivation.key.values()
        )
        sqlite = isinstance(self.queries.looker, SQLiteLooker)
        return QueryPlace.parse(self.place, kinds, len(derivation.tables) if sqlite else None)
