"""How a model's rows become items: its columns by attribute, its key, and the checks of names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from headwater.errors import DeclarationError
from headwater.sql.tracked import CHANGE, ORDER, Tracking
from headwater.sql.tracking import attributes_of, tracking_of

__all__ = ["Shape"]


class Shape:
    """The columns of a model.

    Arguments:
        tracked: it must be; else nothing is known of it but its columns.

    Attributes:
        table: the Core table.
        tracking: how it is tracked.
        columns: its columns by attribute name, without the change number.
        key: the attributes of the primary key.
        filters: the attributes that a keyed table may be filtered by.
        number: the column of the change number; on PostgreSQL of the transaction.
        order: on PostgreSQL, the column of the order within the transaction.
        window: the attribute of the column that the table's time windows look at, once one does.
    """

    def __init__(self, model: sa.Table | type[Any], *, tracked: bool = True) -> None:
        self.table, self.columns = attributes_of(model)
        self.tracking: Tracking = tracking_of(self.table) if tracked else _no_tracking(self.table)
        self._attributes = {column.name: name for name, column in self.columns.items()}
        missing = [name for name in self.tracking.key if name not in self._attributes]
        if missing:
            raise DeclarationError(
                f"the model of table {self.table.name!r} does not map its key {missing[0]!r}"
            )
        self.key = tuple(self._attributes[name] for name in self.tracking.key)
        self.filters = tuple(self._attributes[name] for name in self.tracking.filters)
        self.kept = tuple(
            self._attributes[name] for name in self.tracking.kept if name in self._attributes
        )
        self.number: sa.ColumnElement[int] = self.table.c.get(CHANGE, sa.column(CHANGE))
        self.order = sa.column(ORDER, sa.BigInteger)
        self.order.table = self.table
        self.window: str | None = None

    @property
    def name(self) -> str:
        return self.table.name

    def check_filter(self, names: Sequence[str]) -> None:
        """Raises DeclarationError for an attribute that cannot be filtered by."""
        for name in names:
            if name not in self.columns:
                raise DeclarationError(
                    f"table {self.name!r} cannot be filtered by {name!r}; "
                    f"its columns are {', '.join(self.columns)}"
                )
            if self.tracking.keyed and name not in self.filters:
                allowed = ", ".join(self.filters) or "none"
                raise DeclarationError(
                    f"table {self.name!r} is keyed and cannot be filtered by {name!r}: what left "
                    f"could not be told. Name it in track(filters=); now there is: {allowed}"
                )

    def check_moment(self, name: str) -> sa.Column[Any]:
        """A date-time column by attribute. Raises DeclarationError."""
        column = self.columns.get(name)
        kind = None if column is None else column.type
        if isinstance(kind, sa.types.TypeDecorator):
            kind = kind.impl_instance
        if column is None or not isinstance(kind, sa.DateTime):
            moments = [n for n, c in self.columns.items() if c.name in self.tracking.moments]
            known = f"; there is {', '.join(moments)}" if moments else ""
            raise DeclarationError(
                f"table {self.name!r}: {name!r} is not one of its date-time columns{known}"
            )
        return column

    def use_window(self, name: str) -> None:
        """Note which column the table's windows look at. Raises DeclarationError for a second."""
        if not self.tracking.keyed:
            raise DeclarationError(
                f"table {self.name!r} is append-only; only a keyed table can have a time window"
            )
        self.check_moment(name)
        if self.window not in (None, name):
            raise DeclarationError(
                f"table {self.name!r} has time windows over {self.window!r} already; all windows "
                "of a table look at one column"
            )
        self.window = name

    def readers(self, dialect: sa.Dialect) -> Mapping[str, Callable[[Any], Any]]:
        """By attribute, what makes a stored value of the key or a filter column a Python one."""
        found: dict[str, Callable[[Any], Any]] = {}
        for name in (*self.key, *self.kept):
            kind = self.columns[name].type.dialect_impl(dialect)
            found[name] = kind.result_processor(dialect, None) or _same
        return found


def _no_tracking(table: sa.Table) -> Tracking:
    key = tuple(column.name for column in table.primary_key.columns)
    if not key:
        raise DeclarationError(f"table {table.name!r} has no primary key; its order needs one")
    return Tracking(table.name, key, schema=table.schema)


def _same(value: Any) -> Any:
    return value


def as_utc(value: datetime) -> datetime:
    """A date-time as UTC; a naive one is UTC by the rule of this library."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
