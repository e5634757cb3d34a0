"""Which tables are tracked, and what their triggers must know.

A tracked table has one more column, ``headwater_change``, that triggers set: the number of the
row's latest change, or its transaction on PostgreSQL, where there is a second one, for the order
within it. Neither is mapped, so that the ORM neither loads nor writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import class_mapper
from sqlalchemy.orm.exc import UnmappedClassError

from headwater.errors import DeclarationError
from headwater.sql.own import add_own_tables
from headwater.sql.postgresql import schema as postgresql_schema
from headwater.sql.sqlite import schema as sqlite_schema
from headwater.sql.tracked import CHANGE, ORDER, Tracking, change_column, change_indexes

__all__ = ["attributes_of", "track", "track_as", "track_table", "tracking_of"]

M = TypeVar("M")

_INFO = "headwater"
_OWN = frozenset({CHANGE, ORDER})


def track(
    *,
    keyed: bool = False,
    filters: Sequence[str] = (),
    indexes: Iterable[Sequence[str]] = (),
    notify: bool = True,
) -> Callable[[type[M]], type[M]]:
    """Track a declarative model's table, as a class decorator.

    Arguments:
        keyed: items are told again when their row is updated and told as removed when it is
            deleted. Otherwise a row is told once, when it is inserted.
        filters: on a keyed table, the attributes that ``where()`` may use: their old values are
            kept for each removal, and one index covers them in this order.
        indexes: further runs of attributes that pages are filtered by; each gets an index that
            goes on with the change number.
        notify: on PostgreSQL, wake the tails of other processes with NOTIFY. It costs each
            committing writer a lock that the whole server shares, and a transaction that notified
            cannot be prepared (two-phase commit); without it they look at the table every 50 ms
            to 1 s.

    Raises DeclarationError.
    """

    def decorate(model: type[M]) -> type[M]:
        track_table(model, keyed=keyed, filters=filters, indexes=indexes, notify=notify)
        return model

    return decorate


def track_table(
    table: sa.Table | type[Any],
    *,
    keyed: bool = False,
    filters: Sequence[str] = (),
    indexes: Iterable[Sequence[str]] = (),
    notify: bool = True,
) -> None:
    """The same as ``track`` for a Core table; its columns are named by their keys."""
    target, attributes = attributes_of(table)
    if _INFO in target.info:
        raise DeclarationError(f"table {target.name!r} is tracked already")
    if not target.primary_key.columns:
        raise DeclarationError(
            f"table {target.name!r} has no primary key; a tracked table needs one"
        )
    if filters and not keyed:
        raise DeclarationError(
            f"table {target.name!r}: filters= is for keyed tables, an append-only one can be "
            "filtered by any column; use indexes= to make that fast"
        )
    for own in (CHANGE, ORDER):
        if own in target.columns:
            raise DeclarationError(f"table {target.name!r} has a column {own!r} of its own")

    def names(wanted: Sequence[str]) -> tuple[str, ...]:
        if isinstance(wanted, str):
            raise DeclarationError(f"{wanted!r} is one name; a sequence of names is wanted")
        return tuple(_column(target, attributes, name).name for name in wanted)

    runs = [names(run) for run in indexes]
    if filters:
        runs.insert(0, names(filters))
    tracking = Tracking(
        table=target.name,
        key=tuple(column.name for column in target.primary_key.columns),
        keyed=keyed,
        filters=names(filters),
        moments=tuple(c.name for c in target.columns if _is_moment(c)) if keyed else (),
        uniques=_uniques(target) if keyed else (),
        indexes=tuple(dict.fromkeys(runs)),
        notify=notify,
        schema=target.schema,
    )
    target.info[_INFO] = tracking
    target.append_column(change_column())
    for index in change_indexes(tracking):
        parts = (target.columns[_key(target, name)] for name in index.columns)
        # On PostgreSQL they have columns that the model does not know.
        sa.Index(index.name, *parts).ddl_if(dialect="sqlite")
    for needed in add_own_tables(target.metadata):
        target.add_is_dependent_on(needed)
    event.listen(target, "after_create", _after_create)
    event.listen(target, "after_drop", _after_drop)


def track_as(table: sa.Table, tracking: Tracking) -> None:
    """Note how a table is tracked already, of which the database told."""
    table.info[_INFO] = tracking
    table.append_column(change_column())


def tracking_of(table: sa.Table) -> Tracking:
    """How a table is tracked. Raises DeclarationError for one that is not."""
    tracking = table.info.get(_INFO)
    if not isinstance(tracking, Tracking):
        raise DeclarationError(
            f"table {table.name!r} is not tracked: decorate its model with "
            "@headwater.sql.track() and add the tracking in a migration"
        )
    return tracking


def attributes_of(model: sa.Table | type[Any]) -> tuple[sa.Table, dict[str, sa.Column[Any]]]:
    """The table of a model, and its columns by the attributes that show them."""
    if isinstance(model, sa.Table):
        shown = {name: column for name, column in model.columns.items() if name not in _OWN}
        return model, shown
    try:
        mapper = class_mapper(model, configure=False)
    except (UnmappedClassError, NoInspectionAvailable, sa.exc.ArgumentError) as error:
        raise DeclarationError(f"{model!r} is neither a table nor a mapped class") from error
    table = mapper.local_table
    if not isinstance(table, sa.Table):
        raise DeclarationError(f"{model.__name__} is not mapped to one table")
    found = {
        name: column
        for name, column in mapper.columns.items()
        if isinstance(column, sa.Column) and column.table is table and column.name not in _OWN
    }
    return table, found


def _column(table: sa.Table, attributes: dict[str, sa.Column[Any]], name: str) -> sa.Column[Any]:
    column = attributes.get(name)
    if column is None:
        raise DeclarationError(
            f"table {table.name!r} has no column {name!r}; it has {', '.join(attributes)}"
        )
    return column


def _key(table: sa.Table, name: str) -> str:
    return next(key for key, column in table.columns.items() if column.name == name)


def _is_moment(column: sa.Column[Any]) -> bool:
    kind = column.type
    if isinstance(kind, sa.types.TypeDecorator):
        kind = kind.impl_instance
    return isinstance(kind, sa.DateTime)


def _uniques(table: sa.Table) -> tuple[tuple[str, ...], ...]:
    found: dict[tuple[str, ...], None] = {}
    for constraint in table.constraints:
        if isinstance(constraint, sa.UniqueConstraint):
            found[tuple(column.name for column in constraint.columns)] = None
    for index in table.indexes:
        if index.unique and all(isinstance(part, sa.Column) for part in index.expressions):
            found[tuple(column.name for column in index.columns)] = None
    return tuple(sorted(found))


def _after_create(target: sa.Table, connection: sa.Connection, **_: Any) -> None:
    if connection.dialect.name == "sqlite":
        sqlite_schema.start(connection, tracking_of(target))
    elif connection.dialect.name == "postgresql":
        postgresql_schema.start(connection, tracking_of(target))


def _after_drop(target: sa.Table, connection: sa.Connection, **_: Any) -> None:
    if connection.dialect.name == "sqlite":
        sqlite_schema.forget(connection, target.name)
    elif connection.dialect.name == "postgresql":
        postgresql_schema.forget(connection, tracking_of(target))
