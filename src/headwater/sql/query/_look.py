"""The first statement of a poll: the snapshot, the tables' registration, and the changed tables."""

from __future__ import annotations

import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from headwater.errors import DeclarationError, PositionError, SourceUnavailableError
from headwater.sql._expressions import Column, Condition
from headwater.sql._links import FORMER, LINKS
from headwater.sql._tracking import CHANGE, TABLES, Tracking
from headwater.sql._unreadable import STYLES
from headwater.sql.postgresql._conditions import files
from headwater.sql.postgresql._connections import LIFE
from headwater.sql.postgresql._snapshot import NOTHING, TransactionSnapshot
from headwater.sql.postgresql._types import XID8
from headwater.sql.query._derivation import Derivation
from headwater.sql.query._moments import Moments, PostgreSQLMoments, SQLiteMoments
from headwater.sql.query._place import Counters, QueryPlace


@dataclass(frozen=True, slots=True)
class Look:
    """The result of a look.

    Attributes:
        connection: its transaction sees this snapshot.
        now: the snapshot.
        epoch: the epoch of the query's tables and their links.
        changed: tables with rows that changed since the place.
        gone: tables with former links since the place.
        retiring: positions that do not include this place expire soon. None: no position does.
    """

    connection: sa.Connection
    now: Any
    epoch: str
    changed: frozenset[sa.Table] = frozenset()
    gone: frozenset[sa.Table] = frozenset()
    retiring: QueryPlace | None = None


class Looker(ABC):
    """Begins the transaction of a poll, and looks for changes.

    Arguments:
        name: the query's name, for error messages.
        tables: the tables of the query, and how they are tracked.
        links: the link columns that the query needs of each table.
        fingerprint: differs between queries, so that a position fits only its own query.

    Attributes:
        tables: the tables of the query, with their registered names.
        nothing: a snapshot from before all changes.
    """

    moments: Moments
    nothing: Any

    def __init__(
        self,
        name: str,
        tables: Mapping[sa.Table, Tracking],
        links: Mapping[sa.Table, tuple[str, ...]],
        fingerprint: str,
    ) -> None:
        self.name = name
        self._tracking = tables
        self.tables = {table: tracking.name for table, tracking in tables.items()}
        self.links = links
        self.fingerprint = fingerprint

    @abstractmethod
    def begin(self, connection: sa.Connection) -> None:
        """Begin a transaction whose statements see one snapshot."""

    @abstractmethod
    def look(self, connection: sa.Connection, place: QueryPlace | None) -> Look:
        """Look for changes since a place; with None only for the snapshot.

        Raises PositionError, SourceUnavailableError for a table without links, and
        DeclarationError for a table that lacks some of its links.
        """

    def _epoch(self, rows: Sequence[Sequence[Any]], extra: str = "") -> str:
        """The epoch of the query: a hash of the epochs of its tables and of their links."""
        for (table, name), (epoch, own, links) in zip(self.tables.items(), rows, strict=True):
            if epoch is None or own is None:
                raise SourceUnavailableError(
                    self.name,
                    f"the database does not track the links of table {name!r}; {self.call(table)}",
                )
            missing = set(self.links[table]) - set(json.loads(links))
            if missing:
                raise DeclarationError(
                    f"{self.name}: the links of table {name!r} lack {', '.join(sorted(missing))}; "
                    f"{self.call(table)}"
                )
        text = json.dumps([self.fingerprint, extra, [[*row[:2]] for row in rows]])
        return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()

    def _check(self, place: QueryPlace, now: Any, floor: Any) -> None:
        """Raises PositionError for a place after now, or from before the former links."""
        for segment in place.segments:
            if not now.covers(segment.seen):
                raise PositionError(str(place), "unknown", "it lies in the future")
            # A client that has seen nothing of some keys needs no removal of them.
            if not segment.seen.covers(floor) and segment.seen != self.nothing:
                raise PositionError(str(place), "expired")

    def call(self, table: sa.Table) -> str:
        """The call that adds the links of a table, for error messages."""
        call = self._tracking[table].call_with(self.links[table])
        return f"call headwater.sql.alembic.{call} in a migration"

    def _those(self, flags: Iterable[Any]) -> frozenset[sa.Table]:
        return frozenset(itertools.compress(self.tables, flags))

    def _registered(self, name: str) -> list[Column]:
        own = LINKS.c
        return [
            sa.select(column).where(column.table.c.name == name).scalar_subquery()
            for column in (TABLES.c.epoch, own.epoch, own.links, own.floor, own.retiring)
        ]

    def _gone(self, name: str) -> Condition:
        # It does not check whether the client had these rows: the oldest snapshot of its place may
        # lack rows that a later one has.
        return sa.exists().where(
            FORMER.c.table_name == name, self.moments.lacks(FORMER.c.change, name)
        )


class SQLiteLooker(Looker):
    """On SQLite: each table has its own counter."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.moments = SQLiteMoments(list(self.tables.values()))
        self.nothing = Counters((0,) * len(self.tables))
        columns: list[Column] = []
        for name in self.tables.values():
            last = sa.select(TABLES.c.last).where(TABLES.c.name == name).scalar_subquery()
            columns += [*self._registered(name), last]
        self._place = sa.select(*columns)
        self._since = sa.select(*columns, *map(self._gone, self.tables.values()))

    def begin(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    def look(self, connection: sa.Connection, place: QueryPlace | None) -> Look:
        count = len(self.tables)
        if place is None:
            row = connection.execute(self._place).one()
        else:
            row = connection.execute(self._since, self.moments.values(place.oldest)).one()
        each = [row[6 * at : 6 * at + 6] for at in range(count)]
        epoch = self._epoch([one[:3] for one in each])
        now = Counters(tuple(one[5] for one in each))
        if place is None:
            return Look(connection, now, epoch)
        floor = Counters(tuple(one[3] for one in each))
        self._check(place, now, floor)
        then = place.oldest.numbers
        changed = self._those(a > b for a, b in zip(now.numbers, then, strict=True))
        gone = changed & self._those(row[6 * count :])
        retiring = None
        if any(one[4] is not None for one in each):
            retiring = QueryPlace.at_once(Counters(tuple(one[4] or 0 for one in each)))
        return Look(connection, now, epoch, changed, gone, retiring)


class PostgreSQLLooker(Looker):
    """On PostgreSQL: one snapshot of the server for all tables.

    Attributes:
        life: the SQL that names the life of the server's data.
    """

    life = LIFE
    nothing = NOTHING

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.moments = PostgreSQLMoments(list(self.tables.values()))
        self._known: tuple[str, int] = ("", 0)
        self._made: dict[tuple[bool, str], sa.Select[Any]] = {}

    def begin(self, connection: sa.Connection) -> None:
        # TRUNCATE is not MVCC-safe: a snapshot from before one that is committed when a table is
        # read finds it empty. So the tables are locked before the snapshot is taken. The wait is
        # shorter than deadlock_timeout, so that the DDL of others is never the victim. A plan for
        # any parameters would read whole tables.
        preparer = connection.dialect.identifier_preparer
        tables = ", ".join(map(preparer.format_table, self.tables))
        statements = [
            "SET LOCAL lock_timeout = '500ms'",
            "SET LOCAL plan_cache_mode = force_custom_plan",
            f"LOCK TABLE {tables} IN ACCESS SHARE MODE".replace("%", "%%"),
        ]
        if connection.dialect.driver == "psycopg":
            # It reads texts, whose forms the session may have set. One round trip; asyncpg prepares
            # what it executes, one statement at a time.
            forms = (STYLES | {"extra_float_digits": "1"}).items()
            set_forms = [f"SET LOCAL {name} = {value}" for name, value in forms]
            statements = ["; ".join([*set_forms, *statements])]
        for statement in statements:
            connection.exec_driver_sql(statement)

    def look(self, connection: sa.Connection, place: QueryPlace | None) -> Look:
        query = self._query(place is not None)
        values = {} if place is None else self.moments.values(place.oldest)
        row = connection.execute(query, values).one()
        count, width = len(self.tables), 7 if place is None else 9
        text, life, standby = row[:3]
        if standby:
            raise DeclarationError(
                f"{self.name}: a live query is read on the primary server; this is a hot standby"
            )
        each = [row[3 + width * at : 3 + width * (at + 1)] for at in range(count)]
        epoch = self._epoch([one[:3] for one in each], life)
        seen = TransactionSnapshot.from_postgres(text)
        floor = max(one[3] for one in each)
        newest = max(max(one[5] or 0, one[6] or 0) for one in each)
        if newest >= seen.xmax:
            raise DeclarationError(
                f"{self.name}: its tables have rows of transactions that this server has not made "
                "yet, as from a dump of another server; call headwater.sql.renew_epochs() once"
            )
        floors = TransactionSnapshot(floor + 1 if floor else 0)
        least = max(newest + 1, floors.xmax)
        if place is not None:
            self._check(place, seen, floors)
            least = max(least, *(one.seen.xmax for one in place.segments))
        known, most = self._known
        if known == epoch:
            least = max(least, most)
        now = seen.cut(least)
        self._known = (epoch, now.xmax)
        if place is None:
            return Look(connection, now, epoch)
        changed = self._those(one[7] for one in each)
        gone = self._those(one[8] for one in each)
        retiring = [one[4] for one in each if one[4] is not None]
        latest = QueryPlace.at_once(TransactionSnapshot(max(retiring) + 1)) if retiring else None
        return Look(connection, now, epoch, changed, gone, latest)

    def _query(self, since: bool) -> sa.Select[Any]:
        known = self._made.get((since, self.life))
        if known is not None:
            return known
        life: Column = sa.literal_column(self.life, sa.Text)
        for tracking in self._tracking.values():
            life = life.concat(files(tracking))
        columns: list[Column] = [
            sa.literal_column("pg_current_snapshot()::text", sa.Text),
            life,
            sa.func.pg_is_in_recovery(),
        ]
        for table, name in self.tables.items():
            here = sa.table(table.name, sa.column(CHANGE, XID8()), schema=table.schema)
            change = here.c[CHANGE]
            newest = sa.select(change).order_by(change.desc()).limit(1).where(change.is_not(None))
            former = (
                sa.select(FORMER.c.change)
                .where(FORMER.c.table_name == name)
                .order_by(FORMER.c.change.desc())
                .limit(1)
            )
            columns += [*self._registered(name), newest.scalar_subquery(), former.scalar_subquery()]
            if since:
                lacks = self.moments.lacks(change, name)
                columns += [sa.exists().where(lacks), self._gone(name)]
        made = self._made[since, self.life] = sa.select(
            *(column.label(f"look_{at}") for at, column in enumerate(columns))
        )
        return made


def fingerprint_of(derivation: Derivation, dialect: sa.Dialect) -> str:
    """A hash of the query, so that a position fits only its own query."""
    compiled = derivation.select.compile(dialect=dialect)
    names: dict[sa.BindParameter[Any], str] = compiled.bind_names
    values = sorted((name, _stored(each, dialect)) for each, name in names.items())
    said = repr((str(compiled), values, list(derivation.key), list(derivation.filters)))
    return hashlib.blake2s(said.encode(), digest_size=8).hexdigest()


def _stored(parameter: sa.BindParameter[Any], dialect: sa.Dialect) -> list[str]:
    """The value of a parameter, or each of a list for IN, as the database has it.

    The order of a set, and what Python shows of an object, differ between processes.
    """
    value = parameter.effective_value
    process = parameter.type.dialect_impl(dialect).bind_processor(dialect)
    every = value if parameter.expanding else [value]
    try:
        return sorted(repr(one if process is None else process(one)) for one in every or ())
    except (TypeError, ValueError, LookupError) as error:
        raise DeclarationError(
            f"the parameter {parameter.key!r} cannot be {value!r}, for the type "
            f"{parameter.type!r}: {error}"
        ) from error
