"""What a snapshot means in SQL: which changes a client lacks, which it has, by dialect."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from headwater.sql._expressions import Column, Condition
from headwater.sql._links import FORMER
from headwater.sql._model import TypeOf
from headwater.sql._values import stored_type
from headwater.sql.postgresql._types import XID8, KeyDate, as_xid
from headwater.sql.query._place import Counters
from headwater.sql.sqlite._links import former_link

# The columns of a table, by name, with their types in the model.
Columns: TypeAlias = "Mapping[str, sa.types.TypeEngine[Any]]"


class Moments(ABC):
    """Conditions over a change, for the snapshot that a statement's parameters name.

    Arguments:
        names: what Headwater's own tables call each table of the query, in order.

    Attributes:
        types: on PostgreSQL by name of a table, once it was read, the types of its columns as SQL.
            The model may say less: a shorter text, or a smaller number.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.types: dict[str, Mapping[str, str]] = {}

    @abstractmethod
    def lacks(self, change: Column, name: str) -> Condition:
        """The client lacks this change of the table."""

    @abstractmethod
    def had(self, change: Column, name: str) -> Condition:
        """The client has this change of the table."""

    @abstractmethod
    def values(self, seen: Any) -> dict[str, Any]:
        """The parameters of both."""

    @abstractmethod
    def ordered(self, column: Column) -> Column:
        """A text in the order in which Python sorts it."""

    @abstractmethod
    def links(self, name: str, columns: Columns) -> tuple[sa.FromClause, list[Column]]:
        """The former links of all tables, and these columns of them as this table has them."""

    def raw(self, kind: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
        """How a key's column is read, to be compared and written into a position."""
        if isinstance(kind, sa.Enum):
            return sa.Text()
        return sa.Uuid(as_uuid=False) if isinstance(kind, sa.Uuid) else kind

    def plain(self, column: Column, kind: sa.types.TypeEngine[Any]) -> Column:
        """A key's column as what ``raw`` says."""
        return sa.type_coerce(column, kind)

    def former(self, name: str, columns: Columns) -> sa.Select[Any]:
        """The rows of a table that the client had with these links, and that are gone."""
        source, found = self.links(name, columns)
        named = zip(found, columns, strict=True)
        return (
            sa.select(*(_collated(each).label(column) for each, column in named))
            .select_from(source)
            .where(
                FORMER.c.table_name == name,
                self.lacks(FORMER.c.change, name),
                self.had(FORMER.c.since, name),
            )
        )


class PostgreSQLMoments(Moments):
    """A snapshot is an xmax and the transactions below it that were running."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self._xmax = as_xid(sa.bindparam("seen_xmax", type_=sa.Text))
        self._running = sa.cast(sa.bindparam("seen_running", type_=ARRAY(sa.Text)), ARRAY(XID8()))

    def lacks(self, change: Column, name: str) -> Condition:
        return sa.or_(change >= self._xmax, change == sa.any_(self._running))

    def had(self, change: Column, name: str) -> Condition:
        return sa.and_(change < self._xmax, change != sa.all_(self._running))

    def values(self, seen: Any) -> dict[str, Any]:
        return {"seen_xmax": str(seen.xmax), "seen_running": [str(xid) for xid in seen.running]}

    def ordered(self, column: Column) -> Column:
        return sa.collate(column, "C")

    def plain(self, column: Column, kind: sa.types.TypeEngine[Any]) -> Column:
        # An enum of the database is no text: it has an order of its own.
        enum = isinstance(column.type, sa.Enum)
        return sa.cast(column, kind) if enum else super().plain(column, kind)

    def raw(self, kind: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
        if isinstance(kind, (sa.Date, sa.DateTime)):
            return KeyDate(kind)
        return sa.BigInteger() if isinstance(kind, sa.Integer) else super().raw(kind)

    def links(self, name: str, columns: Columns) -> tuple[sa.FromClause, list[Column]]:
        types = self.types.get(name, {})
        stored = [
            sa.column(column, TypeOf(types[column]) if column in types else kind)
            for column, kind in columns.items()
        ]
        record = sa.func.jsonb_to_record(FORMER.c.links).table_valued(*stored)
        record = record.render_derived(name="link", with_types=True)
        found = [sa.type_coerce(record.c[column], kind) for column, kind in columns.items()]
        return sa.join(FORMER, record, sa.true()), [*found]


class SQLiteMoments(Moments):
    """A snapshot is the number of each table's latest change."""

    def lacks(self, change: Column, name: str) -> Condition:
        # Without statistics of this very value SQLite takes a quarter of all rows to be newer.
        few: sa.ColumnElement[float] = sa.literal_column("0.0001")
        return sa.func.likelihood(change > self._counter(name), few, type_=sa.Integer)

    def had(self, change: Column, name: str) -> Condition:
        return change <= self._counter(name)

    def values(self, seen: Counters) -> dict[str, Any]:
        return {f"seen_{at}": number for at, number in enumerate(seen.numbers)}

    def ordered(self, column: Column) -> Column:
        return sa.collate(column, "BINARY")

    def links(self, name: str, columns: Columns) -> tuple[sa.FromClause, list[Column]]:
        return FORMER, [former_link(FORMER.c.links, *each) for each in columns.items()]

    def raw(self, kind: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
        # Dates and UUIDs are texts, as they are stored.
        text = isinstance(kind, sa.String) and not isinstance(kind, sa.Enum)
        return kind if text or isinstance(kind, sa.Integer) else sa.String()

    def _counter(self, name: str) -> sa.BindParameter[int]:
        return sa.bindparam(f"seen_{self.names.index(name)}", type_=sa.BigInteger)


def _collated(field: Column) -> Column:
    """A former link compared as its column: JSON knows no collation."""
    kind = stored_type(field.type)
    collation = kind.collation if isinstance(kind, sa.String) else None
    return field if collation is None else sa.collate(field, collation)
