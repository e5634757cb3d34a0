"""Clients of a live query, on plain connections: what they were sent, and what they should have."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from headwater.errors import PositionError
from headwater.feeds._source import EVERYTHING, JUDGED, Change, Filter
from headwater.sql._expressions import split
from headwater.sql._judging import NO_QUESTIONS, Questions
from headwater.sql._model import tracking_of
from headwater.sql.query._changes import change_for, changes_of
from headwater.sql.query._derivation import Derivation, column_of
from headwater.sql.query._equality import is_blind, judged_equality
from headwater.sql.query._first_rows import poll_of
from headwater.sql.query._look import PostgreSQLLooker, SQLiteLooker
from headwater.sql.query._place import QueryPlace
from headwater.sql.query._poll import Affected, Queries


def queries_of(derivation: Derivation, dialect: str, number: int) -> Queries:
    tables = {table: tracking_of(table) for table in derivation.tables}
    looker = (PostgreSQLLooker if dialect == "postgresql" else SQLiteLooker)(
        f"query {number}", tables, derivation.links, str(number)
    )
    return Queries(f"query {number}", derivation, looker)


class Client:
    """Has the rows of the query for which some conditions are true."""

    def __init__(self, queries: Queries, conditions: Sequence[Any], dialect: sa.Dialect) -> None:
        self.queries = queries
        self.conditions = conditions
        self.map: dict[Any, Any] = {}
        self.early = 0
        derivation = queries.derivation
        equalities, expression = split("the query", conditions, derivation.filter_of, dialect)
        columns = {n: column_of(each.table, c) for n, (each, c) in derivation.filters.items()}
        blind = {n: [equalities.pop(n)] for n in list(equalities) if is_blind(columns[n])}
        self.filter = Filter.of(**equalities)
        for judged in (expression, judged_equality(columns, blind, dialect)):
            if judged is not None:
                self.filter &= Filter((((JUDGED, judged),),))

    def route(self, one: Affected) -> None:
        """Take what a tail sends of a key, as the hub delivers it."""
        for change in changes_of(self.queries.derivation, one):
            now = change.values_now
            if self.filter.matches(change.values) and not (now and self.filter.matches(now)):
                self.take(one.key, change)

    def take(self, key: Any, change: Change) -> None:
        if not change.removed:
            self.map[key] = change.item
        elif self.map.pop(key, None) is None:
            assert not self.queries.derivation.certain, f"{change} of a row it never had"
            self.early += 1

    def expected(self, connection: sa.Connection) -> dict[Any, Any]:
        """Of the query itself, with the conditions in its WHERE."""
        derivation = self.queries.derivation
        if derivation.limit is not None:
            return dict(self.queries.first(connection, self.filter))
        names = list(derivation.names)
        rows = connection.execute(derivation.select.where(*self.conditions))
        found = [dict(zip(names, row, strict=True)) for row in rows]
        return {tuple(row[name] for name in derivation.key): row for row in found}

    def check(self, connection: sa.Connection) -> None:
        expected = self.expected(connection)
        if self.map != expected:
            wrong = {
                key: (self.map.get(key), expected.get(key))
                for key in {*self.map, *expected}
                if self.map.get(key) != expected.get(key)
            }
            query = self.queries.derivation.select.where(*self.conditions)
            raise AssertionError(f"{query}\n{self.filter}: {wrong}")


class Tail:
    """Follows a query in pieces, for several clients or for one that reads by itself."""

    def __init__(self, queries: Queries, pick: random.Random, clients: list[Client]) -> None:
        self.queries = queries
        self.pick = pick
        self.clients = clients
        self.alone = len(clients) == 1
        self.place: str | None = None
        self.epoch = ""
        self.polls = self.compared = self.partial = self.resets = self.segments = 0
        self.questions = NO_QUESTIONS
        every = [v for each in clients for one in each.filter.any_of for n, v in one if n == JUDGED]
        if every:
            self.questions = Questions({JUDGED: dict.fromkeys(every)})

    def step(self, engine: sa.Engine) -> None:
        """Poll, perhaps not to the end; compare what was sent with the query."""
        with engine.connect() as connection:
            try:
                if self.place is None:
                    self._begin(connection)
                else:
                    self._poll(connection)
            except PositionError:
                self.resets += 1
                self.place = None
            except sa.exc.DBAPIError as error:
                # A TRUNCATE that is not committed yet has the table.
                assert "lock timeout" in str(error)

    def _begin(self, connection: sa.Connection) -> None:
        looker = self.queries.looker
        looker.begin(connection)
        look = looker.look(connection, None)
        self.place, self.epoch = str(QueryPlace.at_once(look.now)), look.epoch
        for client in self.clients:
            client.map = client.expected(connection)

    def _poll(self, connection: sa.Connection) -> None:
        place = self._parsed()
        limited = self.queries.derivation.limit is not None
        wanted = self.clients[0].filter if self.alone else EVERYTHING
        chunk, asked = self.pick.randint(1, 5), self.questions
        kind = poll_of(self.queries)
        poll = kind(self.queries, connection, place, wanted, chunk=chunk, questions=asked)
        if poll.look.epoch != self.epoch:
            raise PositionError(str(place), "unknown")
        stop = self.pick.randint(1, 6) if self.pick.random() < 0.5 else None
        if limited and not self.alone:
            stop = None  # a place in a window is of that window alone
        sent = 0
        for chunk in poll.affected():
            for one in chunk:
                self._send(one, wanted)
                sent += 1
                if sent == stop:
                    self.partial += 1
                    self.place = str(one.place)
                    self.segments = max(self.segments, len(one.place.segments))
                    return
        self.place = str(poll.end)
        self.polls += 1
        for client in self.clients:
            client.check(connection)
            self.compared += 1

    def _send(self, one: Affected, wanted: Filter) -> None:
        if not self.alone:
            for client in self.clients:
                client.route(one)
            return
        change = change_for(self.queries.derivation, one, wanted)
        if change is not None:
            self.clients[0].take(one.key, change)

    def _parsed(self) -> QueryPlace:
        assert self.place is not None
        derivation = self.queries.derivation
        kinds = tuple(
            str if isinstance(one.table.c[name].type, sa.String) else int
            for one, name in derivation.key.values()
        )
        sqlite = isinstance(self.queries.looker, SQLiteLooker)
        return QueryPlace.parse(self.place, kinds, len(derivation.tables) if sqlite else None)
