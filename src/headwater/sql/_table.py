"""A tracked table as the source of feeds."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from headwater.errors import DeclarationError
from headwater.feeds._source import EVERYTHING, JUDGED, Filter, Page, Place, Window
from headwater.sql._databases import check_listen, follow, shown
from headwater.sql._expressions import split
from headwater.sql._model import LONGEST_WINDOW, TableModel
from headwater.sql._reader import TableReader
from headwater.sql._tail import TableOrigin, TailSource
from headwater.sql._values import check_size, fit_values, given
from headwater.sql.postgresql._reader import PostgreSQLReader
from headwater.sql.sqlite._reader import SQLiteReader
from headwater.sql.untracked._reader import UntrackedReader

Order = Literal["prompt", "total"]

# Seconds from the announcement of a trim to the trim. In that time every process has polled the
# table, also one that nothing wakes, and has sent its streams a later position.
GRACE = 10.0


class Table:
    """A tracked table of one database. Make one per table and process.

    Arguments:
        engine: reads the table, on PostgreSQL by psycopg or asyncpg. For an engine that is not
            async, Headwater makes an async one with the same address. Give an async engine if its
            connections need more than the address, such as ``connect_args=``.
        model: a declarative model or Core table that is tracked. A class that shares its parent's
            table (single-table inheritance) shows its own rows only.
        listen: further engines of this process that write to the database. Their commits wake the
            tail at once too.
        order: on PostgreSQL, when a row is sent. ``"prompt"``: when it commits; rows of
            transactions that ran at the same time may reach two clients in different order.
            ``"total"``: when no older transaction of the server runs any more, in one order for
            all. SQLite has one order in any case.

    Attributes:
        engine: the same.
        origin: what the hub reads from.

    Raises DeclarationError.
    """

    def __init__(
        self,
        engine: AsyncEngine | sa.Engine,
        model: sa.Table | type[Any],
        *,
        listen: Sequence[AsyncEngine | sa.Engine] = (),
        order: Order = "prompt",
    ) -> None:
        if order not in ("prompt", "total"):
            raise DeclarationError(f"order={order!r} must be 'prompt' or 'total'")
        engine, listen = reading_engine(engine, listen)
        tracked = TableModel(model)
        if engine.dialect.name == "sqlite":
            self._read_by(SQLiteReader(engine, tracked, listen))
        elif engine.dialect.name == "postgresql":
            self._read_by(PostgreSQLReader(engine, tracked, listen, total=order == "total"))
        else:
            raise DeclarationError(
                f"tables on {engine.dialect.name!r} cannot be followed; SQLite and PostgreSQL can"
            )

    @classmethod
    def untracked(
        cls,
        engine: AsyncEngine | sa.Engine,
        model: sa.Table | type[Any],
        *,
        order_by: str,
        reread: timedelta = timedelta(seconds=5),
        listen: Sequence[AsyncEngine | sa.Engine] = (),
    ) -> Table:
        """A table that cannot be changed, as an append-only source that promises less.

        Rows come in the order of a date-time and the primary key. Each read begins ``reread``
        before the newest row and leaves out rows that were sent. So a row is sent once if its
        date-time never changes, and if it commits at most ``reread`` after a row with a later one.
        A row that commits later, because its transaction was long or a clock was behind, is in
        later pages alone: open streams and clients that resume do not get it. With more than 250
        rows within ``reread``, only the newest 250 of them are read again. Rows without a date-time
        are left out, and those of the year 8000 and later, such as ``infinity``. A table that was
        emptied or restored goes unnoticed.

        Arguments:
            order_by: the attribute of the date-time. An index on it and the key makes it fast.
            reread: how late a row may be.
            listen: as for a tracked table.

        Raises DeclarationError.
        """
        table = cls.__new__(cls)
        engine, listen = reading_engine(engine, listen)
        columns = TableModel(model, tracked=False)
        table._read_by(UntrackedReader(engine, columns, order_by, reread, listen))
        return table

    def _read_by(self, reader: TableReader) -> None:
        self.engine, self.name = reader.engine, reader.model.name
        follow(reader.engine, [reader.model.table])
        self.reader = reader
        self.origin = TableOrigin(reader, reader.name)

    def where(self, *conditions: Any, **equalities: Any) -> TableSource:
        """The rows with these values, by attribute, of which these conditions are true.

        Conditions are SQLAlchemy expressions over columns of the table: ranges, ``!=``, ``in_``,
        ``like``, ``is_(None)``, and ``and_``, ``or_`` and ``not_`` of them.

        A list, tuple or set as a value means any of its values; ``NULL`` means no value. Values are
        converted to the column's type: ``"7"`` is 7 in a column of integers.

        Raises DeclarationError for what the table cannot be filtered by, and FilterValueError for
        None and for a value that the column cannot have. A feed answers 422 for a value of the
        request.
        """
        model, dialect = self.reader.model, self.reader.engine.dialect
        found, expression = split(f"table {self.name!r}", conditions, model.attribute_of, dialect)
        model.check_filter([*equalities, *found])
        wanted = Filter.of(**fit_values(model.columns, equalities, dialect))
        if found:
            wanted &= Filter.of(**fit_values(model.columns, found, dialect))
        if own := model.own_rows:
            wanted &= Filter.of(**fit_values(model.columns, own, dialect))
            check_size(len(wanted.any_of))
        if expression is not None:
            model.check_filter(sorted(expression.shape.names))
            wanted &= Filter((((JUDGED, expression),),))
        return TableSource(self, wanted)

    def optional(self, **equalities: Any) -> TableSource:
        """As ``where``, but leaves out values that are None, such as absent query parameters."""
        return self.where(**given(equalities, self.reader.model.check_filter))

    async def trim(
        self,
        *,
        max_age: timedelta | None = None,
        column: str | None = None,
        max_count: int | None = None,
        grace: float = GRACE,
    ) -> int:
        """Remove what is older than ``max_age`` or beyond the newest ``max_count``.

        An append-only table loses rows; ``column`` is the date-time of their age. A keyed table
        keeps its rows and loses old removals. Positions from before what was removed expire. So it
        first announces the removal in the database and waits ``grace`` seconds, in which every
        process gives its open streams a later position. It works in small transactions. Returns
        how many rows or removals were removed.
        """
        if max_age is None and max_count is None:
            raise DeclarationError(f"trim of table {self.name!r}: give max_age= or max_count=")
        if self.reader.model.own_rows:
            raise DeclarationError(
                f"trim of table {self.name!r} would remove rows of other classes too: trim the "
                "Table of the class that it inherits from"
            )
        if max_count is not None and max_count < 0:
            raise DeclarationError(f"max_count={max_count} must be at least 0")
        if self.reader.model.tracking.keyed:
            if column is not None:
                raise DeclarationError(
                    f"table {self.name!r} is keyed: its removals have a date-time of their own, "
                    "column= is for append-only tables"
                )
        elif max_age is not None:
            if column is None:
                raise DeclarationError(
                    f"trim of table {self.name!r} by age: give column=, the date-time of its rows"
                )
            self.reader.model.check_moment(column)
        return await self.reader.trim(
            max_age=max_age, column=column, max_count=max_count, grace=grace
        )


class TableSource(TailSource):
    """A selection of a table, as a feed's handler returns it."""

    __slots__ = ("keyed", "table", "window")

    def __init__(
        self, table: Table, wanted: Filter = EVERYTHING, window: Window | None = None
    ) -> None:
        super().__init__(table.origin, wanted)
        self.table = table
        self.window = window
        self.keyed = table.reader.model.tracking.keyed

    def where(self, *conditions: Any, **equalities: Any) -> TableSource:
        """The rows of this selection that have these values too, as ``Table.where``."""
        narrower = self.table.where(*conditions, **equalities)
        both = self.filter & narrower.filter
        check_size(len(both.any_of))
        return TableSource(self.table, both, self.window)

    def optional(self, **equalities: Any) -> TableSource:
        """As ``where``, but leaves out values that are None."""
        found = given(equalities, self.table.reader.model.check_filter)
        return self.where(**found) if found else self

    def within(self, column: str, length: timedelta) -> TableSource:
        """The rows of this selection whose ``column`` is less than ``length`` ago.

        A row leaves the feed when the time has passed. Only for keyed tables. Raises
        DeclarationError.
        """
        if not timedelta(0) < length <= LONGEST_WINDOW:
            raise DeclarationError(
                f"within({column!r}, {length}): the length must be positive, and at most "
                f"{LONGEST_WINDOW.days:,} days"
            )
        self.table.reader.model.use_window(column)
        return TableSource(self.table, self.filter, Window(column, length))

    def __or__(self, other: TableSource) -> TableSource:
        """The rows of both. They must be of one table and have the same time window."""
        if not isinstance(other, TableSource):
            return NotImplemented
        if other.table is not self.table or other.window != self.window:
            raise DeclarationError(
                f"a union takes selections of one Table with the same window, not of "
                f"{self.table.name!r} of {shown(self.table.engine)} {_shown(self.window)} and "
                f"{other.table.name!r} of {shown(other.table.engine)} {_shown(other.window)}"
            )
        either = self.filter | other.filter
        check_size(len(either.any_of))
        return TableSource(self.table, either, self.window)

    async def page(
        self, limit: int, *, after: Place | None = None, before: Place | None = None
    ) -> Page:
        page = await self.table.reader.page(
            self.filter, self.window, limit, after=after, before=before
        )
        self.origin.reach(page.end)
        return page

    async def revision(self) -> Hashable | None:
        # Rows leave a window by the clock alone.
        return None if self.window is not None else await self.table.reader.revision()

    def nothing(self) -> Place | None:
        return self.table.reader.nothing() if self.keyed else None

    async def exceeds(self, count: int) -> bool:
        return await self.table.reader.exceeds(self.filter, self.window, count)

    def check_fields(self, names: Iterable[str]) -> None:
        self.table.reader.model.check_columns(names, "fill the field")

    async def members(self) -> Sequence[tuple[Mapping[str, Any], datetime]]:
        if self.window is None:
            return ()
        return await self.table.reader.members(self.filter, self.window)


# The async engines of those that are not: all tables of one engine share one pool.
_async_engines: WeakKeyDictionary[sa.Engine, AsyncEngine] = WeakKeyDictionary()


def reading_engine(
    engine: AsyncEngine | sa.Engine, listen: Sequence[AsyncEngine | sa.Engine]
) -> tuple[AsyncEngine, Sequence[AsyncEngine | sa.Engine]]:
    """An async engine for the same database, and the engines whose commits wake the tail.

    Raises DeclarationError.
    """
    if not isinstance(engine, (AsyncEngine, sa.Engine)):
        raise DeclarationError(
            f"{engine!r} is no engine of SQLAlchemy: give one, such as sqlite_engine() makes"
        )
    if isinstance(engine, AsyncEngine):
        check_listen(engine, listen)
        return engine, listen
    name, driver = engine.dialect.name, engine.dialect.driver
    if name == "sqlite" and engine.url.database in (None, "", ":memory:"):
        raise DeclarationError(
            "a database in memory belongs to one engine, and this one is not async: give an async "
            "engine, such as sqlite_engine() makes"
        )
    url = engine.url
    if name == "sqlite":
        url = url.set(drivername="sqlite+aiosqlite")
    elif name == "postgresql" and driver != "psycopg":
        raise DeclarationError(
            f"{driver} has no async connections: give an engine of postgresql+psycopg://… or "
            "postgresql+asyncpg://…, and this one in listen=, so that its commits wake the streams"
        )
    made = _async_engines.get(engine)
    if made is None:
        made = _async_engines[engine] = create_async_engine(url)
    check_listen(made, listen)
    return made, (engine, *listen)


def _shown(window: Window | None) -> str:
    return "without a window" if window is None else f"within {window.length} of {window.column!r}"
