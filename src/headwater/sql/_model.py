"""A model and its table: the columns by attribute, the key, and the checks of names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper, class_mapper
from sqlalchemy.orm.exc import UnmappedClassError

from headwater.errors import DeclarationError
from headwater.sql._tracking import CHANGE, ORDER, SINCE, Tracking

# The key of a table's Tracking in its ``info``.
TRACKING = "headwater"
_OWN = frozenset({CHANGE, ORDER, SINCE})

# The moments of time windows are read as of these at least and at most: PostgreSQL has earlier and
# later ones and infinite ones, and a window is added to them. No window is longer.
FIRST, LAST = datetime(1, 1, 3, tzinfo=UTC), datetime(8000, 1, 1, tzinfo=UTC)
LONGEST_WINDOW = timedelta(days=365_000)


class TypeOf(sa.types.UserDefinedType[Any]):
    """The type that a column has in the database, as SQL."""

    cache_ok = True

    def __init__(self, said: str) -> None:
        self.said = said

    def get_col_spec(self, **_: Any) -> str:
        return self.said


class TableModel:
    """A model or Core table, as a reader uses it.

    Arguments:
        tracked: whether the table must be tracked.

    Attributes:
        table, name: the Core table, and its name.
        tracking: how it is tracked.
        columns: its columns by attribute name, without those of the tracking.
        key: the attributes of the primary key.
        filters: the attributes that a keyed table may be filtered by.
        kept: the attributes whose old values each removal keeps.
        number: the column of the change number; on PostgreSQL of the transaction.
        order: on PostgreSQL, the column of the order within the transaction.
        window: the attribute of the table's time windows, once there is one.
        types: on PostgreSQL, once the table was read: by attribute the column's type, as SQL.
    """

    def __init__(self, model: sa.Table | type[Any], *, tracked: bool = True) -> None:
        self._model = model
        self.table, self.columns = attributes_of(model)
        self.name = self.table.name
        self.tracking: Tracking = tracking_of(self.table) if tracked else _no_tracking(self.table)
        self._attributes = {column.name: name for name, column in self.columns.items()}
        missing = [name for name in self.tracking.key if name not in self._attributes]
        if missing:
            raise DeclarationError(
                f"the model of table {self.table.name!r} does not map its key {missing[0]!r}"
            )
        self.key = tuple(self._attributes[name] for name in self.tracking.key)
        self._mapper = None if isinstance(model, sa.Table) else _mapper_of(model)
        self.filters = tuple(
            self._attributes[name] for name in self.tracking.filters if name in self._attributes
        )
        self._discriminator = self._check_class()
        self.kept = tuple(
            self._attributes[name] for name in self.tracking.kept if name in self._attributes
        )
        self.number: sa.ColumnElement[int] = self.table.c.get(CHANGE, sa.column(CHANGE))
        self.order = sa.column(ORDER, sa.BigInteger)
        self.order.table = self.table
        self.window: str | None = None
        self.types: Mapping[str, str] = {}

    @property
    def own_rows(self) -> dict[str, list[Any]]:
        """By attribute, the values of the rows that are of the model's class.

        A class that shares its parent's table (single-table inheritance) has the rows whose
        discriminator names it, or a class that inherits from it. Empty for all other models: all
        rows are theirs.
        """
        if self._mapper is None or self._discriminator is None:
            return {}
        every = (each.polymorphic_identity for each in self._mapper.self_and_descendants)
        return {self._discriminator: [each for each in every if each is not None]}

    def _check_class(self) -> str | None:
        """The attribute of the discriminator, of a class whose rows are a part of the table.

        Raises DeclarationError for a class whose items cannot be read from one table.
        """
        mapper = self._mapper
        if mapper is None:
            return None
        if len(mapper.tables) > 1:
            names = " and ".join(repr(table.name) for table in mapper.tables)
            raise DeclarationError(
                f"{mapper.class_.__name__} is mapped to the tables {names}: an item would be made "
                "of rows of both. Use a LiveQuery of a select() that joins them, or give Table "
                f"the table itself, {mapper.class_.__name__}.__table__"
            )
        if not mapper.single or mapper.polymorphic_on is None:
            return None
        found = discriminator_of(mapper, self.columns)
        if found is None:
            raise DeclarationError(
                f"the discriminator of {mapper.class_.__name__}, {mapper.polymorphic_on}, is not a "
                f"column of table {self.name!r}: a stream could not select the rows of this class"
            )
        if self.tracking.keyed and found not in self.filters:
            raise DeclarationError(
                f"the rows of {mapper.class_.__name__} are those of table {self.name!r} with some "
                f"values of {found!r}, which a removal does not keep. Name it in track(filters=)"
            )
        return found

    def check_columns(self, names: Iterable[str], what: str) -> None:
        """Raises DeclarationError for a name that is not the attribute of a column.

        ``what``: what the table cannot do with such a name, for the message.
        """
        for name in names:
            if name in self.columns:
                continue
            why = f"its columns are {', '.join(self.columns)}"
            if not isinstance(self._model, sa.Table):
                mapper = sa.inspect(self._model)
                if name in mapper.relationships:
                    local = ", ".join(
                        found
                        for column in mapper.relationships[name].local_columns
                        for found, own in self.columns.items()
                        if own is column
                    )
                    why = f"it is a relationship, and rows have columns alone, such as {local}"
                elif name in mapper.all_orm_descriptors:
                    why = f"it is no column of the table; {why}"
            raise DeclarationError(f"table {self.name!r} cannot {what} {name!r}: {why}")

    def attribute_of(self, column: Any) -> str:
        """The attribute of one of the table's columns. Raises DeclarationError for another."""
        name = self._attributes.get(column.name)
        if column.table not in {self.table} or name is None:
            raise DeclarationError(
                f"{column} is no column of table {self.name!r}: a condition is over one row; for "
                "columns of several tables write a live query"
            )
        return name

    def check_filter(self, names: Sequence[str]) -> None:
        """Raises DeclarationError for an attribute that the table cannot be filtered by."""
        self.check_columns(names, "be filtered by")
        for name in names:
            if self.tracking.keyed and name not in self.filters:
                allowed = ", ".join(self.filters) or "none"
                raise DeclarationError(
                    f"table {self.name!r} is keyed and cannot be filtered by {name!r}: a removal "
                    f"does not keep it. Name it in track(filters=), which has: {allowed}"
                )

    def check_moment(self, name: str) -> sa.Column[Any]:
        """A date-time column by attribute. Raises DeclarationError."""
        column = self.columns.get(name)
        if column is None or date_time_type(column) is None:
            moments = [n for n, c in self.columns.items() if c.name in self.tracking.moments]
            known = f"; there is {', '.join(moments)}" if moments else ""
            raise DeclarationError(
                f"table {self.name!r}: {name!r} is not one of its date-time columns{known}"
            )
        return column

    def use_window(self, name: str) -> None:
        """Set the attribute of the table's windows. Raises DeclarationError for a second one."""
        if not self.tracking.keyed:
            raise DeclarationError(
                f"table {self.name!r} is append-only; only a keyed table can have a time window"
            )
        self.check_moment(name)
        if self.window not in (None, name):
            raise DeclarationError(
                f"table {self.name!r} has time windows over {self.window!r} already; all windows "
                "of a table are over one column"
            )
        self.window = name

    def learn_types(self, types: Mapping[str, str]) -> None:
        """Take the types that the columns have in the database, by the columns' names."""
        own = {attribute: types.get(name) for name, attribute in self._attributes.items()}
        self.types = {name: found for name, found in own.items() if found is not None}

    def cast(self, text: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[Any]:
        """A text as a value of a column, by attribute.

        The model's type may say less than the table's: a shorter text, or a smaller number.
        """
        kind = self.columns[name].type
        if name not in self.types:
            return sa.cast(text, kind)
        return sa.type_coerce(sa.cast(text, TypeOf(self.types[name])), kind)

    def has_zone(self, name: str) -> bool:
        """Whether a date-time column has a time zone."""
        if name in self.types:
            return "with time zone" in self.types[name]
        kind = date_time_type(self.columns[name])
        return kind is not None and bool(kind.timezone)


def tracking_of(table: sa.Table) -> Tracking:
    """How a table is tracked. Raises DeclarationError for one that is not.

    Classes that inherit the table may have added date-times to it since ``track()``.
    """
    tracking = table.info.get(TRACKING)
    if not isinstance(tracking, Tracking):
        raise DeclarationError(
            f"table {table.name!r} is not tracked: decorate its model with "
            "@headwater.sql.track() and add the tracking in a migration"
        )
    if tracking.keyed:
        moments = dict.fromkeys((*dated(table), *tracking.moments))
        if tuple(moments) != tracking.moments:
            tracking = table.info[TRACKING] = replace(tracking, moments=tuple(moments))
    return tracking


def attributes_of(model: sa.Table | type[Any]) -> tuple[sa.Table, dict[str, sa.Column[Any]]]:
    """The table of a model, and its columns by attribute name."""
    if isinstance(model, sa.Table):
        shown = {name: column for name, column in model.columns.items() if name not in _OWN}
        return model, shown
    mapper = _mapper_of(model)
    table = mapper.local_table
    if not isinstance(table, sa.Table):
        raise DeclarationError(f"{model.__name__} is not mapped to one table")
    found = {
        name: column
        for name, column in mapper.columns.items()
        if isinstance(column, sa.Column) and column.table is table and column.name not in _OWN
    }
    return table, found


def discriminator_of(
    model: Mapper[Any] | sa.Table | type[Any], columns: Mapping[str, sa.Column[Any]]
) -> str | None:
    """The attribute that says of which class a row is, if it is a column of the model's table."""
    if isinstance(model, sa.Table):
        return None
    wanted = (model if isinstance(model, Mapper) else _mapper_of(model)).polymorphic_on
    return next((name for name, column in columns.items() if column is wanted), None)


def _mapper_of(model: type[Any]) -> Mapper[Any]:
    try:
        return class_mapper(model, configure=False)
    except (UnmappedClassError, NoInspectionAvailable, sa.exc.ArgumentError) as error:
        raise DeclarationError(f"{model!r} is neither a table nor a mapped class") from error


def dated(table: sa.Table) -> list[str]:
    """The names of a table's date-time columns."""
    return [column.name for column in table.columns if date_time_type(column)]


def date_time_type(column: sa.Column[Any]) -> sa.DateTime | None:
    """The date-time type of a column, below a TypeDecorator too; None for another type."""
    kind: Any = column.type
    # SQLAlchemy stores a length of time as a date-time where a database has no type for it.
    if isinstance(kind, sa.types.TypeDecorator) and not isinstance(kind, sa.Interval):
        kind = kind.impl_instance
    return kind if isinstance(kind, sa.DateTime) else None


def _no_tracking(table: sa.Table) -> Tracking:
    key = tuple(column.name for column in table.primary_key.columns)
    if not key:
        raise DeclarationError(f"table {table.name!r} has no primary key; its order needs one")
    return Tracking(table.name, key, schema=table.schema)


def as_utc(value: datetime) -> datetime:
    """A date-time as UTC; a naive one is UTC by the rule of this library."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
