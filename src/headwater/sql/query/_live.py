"""``LiveQuery``: a SELECT as the source of feeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from weakref import WeakSet

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.errors import DeclarationError, FilterValueError
from headwater.feeds._source import EVERYTHING, JUDGED, Filter, Page, Place
from headwater.sql._databases import check_one_database, follow, shown
from headwater.sql._expressions import split
from headwater.sql._links import declare_links
from headwater.sql._model import attributes_of
from headwater.sql._table import GRACE, reading_engine
from headwater.sql._tail import TableOrigin, TailSource
from headwater.sql._values import fit_values, given
from headwater.sql.query._derivation import Derivation, column_of
from headwater.sql.query._equality import as_read, check_equality, is_blind, judged_equality
from headwater.sql.query._reader import QueryReader

# The live queries of this process, for ``headwater check``.
DECLARED: WeakSet[LiveQuery] = WeakSet()


class LiveQuery:
    """A SELECT as an exact, resumable, keyed source. Make one per query and process.

    Headwater derives from the SELECT: the tables, how a changed row of each leads to rows of the
    query, and the *links* of each table, the columns that this needs. Each table must be tracked
    with ``keyed=True``. If the live query is declared before ``metadata.create_all``, its tables
    get their links there. For existing tables, call
    ``headwater.sql.alembic.add_tracking(links=)`` in a migration.

    Arguments:
        engine: reads the query: SQLite, or PostgreSQL by psycopg or asyncpg, as for a ``Table``.
        select: the query. Its rows are the items, in the order of the key.
        key: names of selected columns that identify a row: plain columns of inner-joined tables.
        where: names of selected columns that ``where()`` may use: also plain columns of
            inner-joined tables.
        affects: models or tables without a condition that leads to the query, such as a table of
            settings. After a change of one of them every row is read again.
        listen: further engines of this process that write to the database. Their commits wake the
            tail at once too.

    Attributes:
        engine: the async engine that reads the query.
        origin: the tail of the query, from which the hub reads.

    Raises DeclarationError for a clause that cannot be derived, and says what to write instead. It
    is also raised if the tables are known to be in two databases.
    """

    def __init__(
        self,
        engine: AsyncEngine | sa.Engine,
        select: sa.Select[*tuple[Any, ...]],
        *,
        key: Sequence[str],
        where: Sequence[str] = (),
        affects: Sequence[sa.Table | type[Any]] = (),
        listen: Sequence[AsyncEngine | sa.Engine] = (),
    ) -> None:
        engine, listen = reading_engine(engine, listen)
        tables = [attributes_of(model)[0] for model in affects]
        derivation = Derivation(select, key, where, tables)
        check_equality(derivation.compared, engine.dialect)
        name = f"live query of {', '.join(table.name for table in derivation.tables)}"
        check_one_database(name, engine, derivation.tables)
        follow(engine, derivation.tables)
        for table, links in derivation.links.items():
            declare_links(table, links)
        self.engine, self.name = engine, name
        self.reader = QueryReader(engine, derivation, name, listen)
        self.origin = TableOrigin(self.reader, name)
        DECLARED.add(self)

    def where(self, *conditions: Any, **equalities: Any) -> QuerySource:
        """Select the rows that have these values and for which these conditions are true.

        Conditions are SQLAlchemy expressions over the columns that ``where=`` names, as in
        ``Table.where``. A list, tuple or set as a value means any of its values. Values are
        converted to the column's type.

        Raises DeclarationError for a column or condition that the query cannot be filtered by, and
        FilterValueError for None, NULL and a value that the column cannot have.
        """
        allowed = self.reader.derivation.filters
        dialect = self.engine.dialect
        attribute_of = self.reader.derivation.filter_of
        found, expression = split(f"the {self.name}", conditions, attribute_of, dialect)
        if expression is not None and self.reader.derivation.limit is not None:
            raise DeclarationError(
                f"the {self.name} keeps its first rows for each value of {', '.join(allowed)}: "
                "where() takes values only, no conditions"
            )
        wanted = self._equal(equalities) & self._equal(found)
        if expression is not None:
            wanted &= Filter((((JUDGED, expression),),))
        return QuerySource(self, wanted)

    def _equal(self, equalities: Mapping[str, Any]) -> Filter:
        allowed = self.reader.derivation.filters
        self._check_filter([*equalities])
        columns = {n: column_of(each.table, c) for n, (each, c) in allowed.items()}
        fit = fit_values(columns, equalities, self.engine.dialect)
        for name, values in fit.items():
            if None in values:
                raise FilterValueError(
                    name, None, f"the {self.name} cannot be filtered by {name}=NULL: name a value"
                )
        blind = {name: fit.pop(name) for name in list(fit) if is_blind(columns[name])}
        judged = judged_equality(columns, blind, self.engine.dialect)
        wanted = Filter.of(
            **{n: [as_read(columns[n], v, self.engine.dialect) for v in fit[n]] for n in fit}
        )
        return wanted if judged is None else wanted & Filter((((JUDGED, judged),),))

    def _check_filter(self, names: Sequence[str]) -> None:
        """Raises DeclarationError for a name that the query cannot be filtered by."""
        allowed = self.reader.derivation.filters
        for name in names:
            if name not in allowed:
                raise DeclarationError(
                    f"the {self.name} cannot be filtered by {name!r}: name it in where=, which now "
                    f"has {', '.join(allowed) or 'no columns'}"
                )

    def optional(self, **equalities: Any) -> QuerySource:
        """As ``where``, but leaves out values that are None, such as absent query parameters."""
        return self.where(**given(equalities, self._check_filter))

    def check_window(self, wanted: Filter) -> None:
        """Raises DeclarationError for a filter that is not one window of a query with LIMIT."""
        allowed = sorted(self.reader.derivation.filters)
        if self.reader.derivation.limit is None:
            return
        if [[name for name, _ in each] for each in wanted.any_of] != [allowed]:
            raise DeclarationError(
                f"the {self.name} keeps its first rows for each value of {', '.join(allowed)}: "
                "where() must name one value of each, or declare the query without where="
            )

    async def trim(self, *, max_age: timedelta, grace: float = GRACE) -> int:
        """Remove the former links of the query's tables that are older than ``max_age``.

        Older positions expire then, in all live queries over these tables. So it first announces
        the removal in the database and waits ``grace`` seconds, in which every process gives its
        open streams a later position. It removes rows in small transactions. Returns how many.
        """
        if max_age < timedelta(0):
            raise DeclarationError(f"max_age={max_age} must not be negative")
        return await self.reader.trim(max_age, grace)


class QuerySource(TailSource):
    """A selection of a live query. A feed's function returns it."""

    __slots__ = ("query",)

    keyed = True

    def __init__(self, query: LiveQuery, wanted: Filter = EVERYTHING) -> None:
        super().__init__(query.origin, wanted)
        self.query = query

    def where(self, *conditions: Any, **equalities: Any) -> QuerySource:
        """The rows of this selection that also match, as ``LiveQuery.where``."""
        narrower = self.query.where(*conditions, **equalities)
        return QuerySource(self.query, self.filter & narrower.filter)

    def optional(self, **equalities: Any) -> QuerySource:
        """As ``where``, but leaves out values that are None."""
        narrower = self.query.optional(**equalities)
        return QuerySource(self.query, self.filter & narrower.filter)

    def __or__(self, other: QuerySource) -> QuerySource:
        """The rows of either selection. Both must be of the same live query."""
        if not isinstance(other, QuerySource):
            return NotImplemented
        if other.query is not self.query:
            raise DeclarationError(
                f"a union takes selections of one live query, not of the {self.query.name} of "
                f"{shown(self.query.engine)} and the {other.query.name} of "
                f"{shown(other.query.engine)}"
            )
        return QuerySource(self.query, self.filter | other.filter)

    async def page(
        self, limit: int, *, after: Place | None = None, before: Place | None = None
    ) -> Page:
        self.query.check_window(self.filter)
        page = await self.query.reader.page(self.filter, limit, after=after, before=before)
        if before is None:
            self.origin.reach(page.end)
        return page

    def nothing(self) -> Place:
        return self.query.reader.nothing()

    async def exceeds(self, count: int) -> bool:
        return await self.query.reader.exceeds(self.filter, count)

    def check_fields(self, names: Iterable[str]) -> None:
        selected = self.query.reader.derivation.names
        for name in names:
            if name not in selected:
                raise DeclarationError(
                    f"the {self.query.name} cannot fill the field {name!r}: it selects "
                    f"{', '.join(selected)}"
                )
