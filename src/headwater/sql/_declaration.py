"""``track()``: adds the column and triggers that a tail needs to a model's table.

The column, ``headwater_change``, has the number of the row's latest change, and on PostgreSQL its
transaction. There a second column, ``headwater_order``, orders the changes of a transaction.
Triggers and defaults set both. The model does not map them, so the ORM never reads or writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from weakref import WeakSet

import sqlalchemy as sa
from sqlalchemy import event

from headwater.errors import DeclarationError
from headwater.sql._model import TRACKING, attributes_of, dated, discriminator_of, tracking_of
from headwater.sql._schemas import SCHEMAS, schema_of
from headwater.sql._tracking import (
    CHANGE,
    ORDER,
    Tracking,
    add_own_tables,
    change_column,
    forget,
)
from headwater.sql.postgresql._types import XID8

M = TypeVar("M")

# All tables of this process that are tracked.
TRACKED: WeakSet[sa.Table] = WeakSet()


def track(
    *,
    keyed: bool = False,
    filters: Sequence[str] = (),
    indexes: Iterable[Sequence[str]] = (),
    notify: bool = True,
) -> Callable[[type[M]], type[M]]:
    """Track a declarative model's table, as a class decorator.

    Arguments:
        keyed: an update sends the item again, and a delete sends its removal. Otherwise an item is
            sent once, when its row is inserted.
        filters: on a keyed table, the attributes that ``where()`` may use. Each removal keeps
            their old values, and one index covers them in this order. The discriminator of classes
            that share the table is kept too.
        indexes: further runs of attributes that pages are filtered by. Each gets an index that
            ends with the change number.
        notify: on PostgreSQL, wake the tails of other processes with NOTIFY. Each committing
            writer then takes a lock that the whole server shares, and a transaction that notified
            cannot be prepared (two-phase commit). Without it those tails poll the table every
            50 ms to 1 s.

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
    if TRACKING in target.info:
        raise DeclarationError(f"table {target.name!r} is tracked already")
    for own in (CHANGE, ORDER):
        # A reflected table has those that ``add_tracking`` added.
        column = target.columns.get(own)
        if column is not None and not isinstance(column.type, (sa.Integer, XID8)):
            raise DeclarationError(f"table {target.name!r} has a column {own!r} of its own")
    tracking = tracking_as(
        target, attributes, keyed=keyed, filters=filters, indexes=indexes, notify=notify
    )
    kind = discriminator_of(table, attributes)
    if keyed and kind is not None:
        # A row that becomes one of another class leaves the feed of its class.
        kept = dict.fromkeys((*tracking.filters, attributes[kind].name))
        tracking = replace(tracking, filters=tuple(kept))
    target.info[TRACKING] = tracking
    TRACKED.add(target)
    if CHANGE not in target.columns:
        target.append_column(change_column())
    for needed in add_own_tables(target.metadata):
        target.add_is_dependent_on(needed)
    event.listen(target, "after_create", _after_create)
    event.listen(target, "before_drop", _before_drop)


def tracking_as(
    target: sa.Table,
    attributes: Mapping[str, sa.Column[Any]],
    *,
    keyed: bool,
    filters: Sequence[str],
    indexes: Iterable[Sequence[str]],
    notify: bool,
    moments: Sequence[str] = (),
) -> Tracking:
    """How a table with these columns is tracked. Raises DeclarationError.

    ``moments``: date-time columns that have another type in the database.
    """
    if not target.primary_key.columns:
        raise DeclarationError(
            f"table {target.name!r} has no primary key; a tracked table needs one"
        )
    if filters and not keyed:
        raise DeclarationError(
            f"table {target.name!r}: filters= is for keyed tables. An append-only table can be "
            "filtered by any column; indexes= makes that fast"
        )

    def names(wanted: Sequence[str]) -> tuple[str, ...]:
        if isinstance(wanted, str):
            raise DeclarationError(f"{wanted!r} is one name; give a list: [{wanted!r}]")
        for name in wanted:
            if name not in attributes:
                raise DeclarationError(
                    f"table {target.name!r} has no column {name!r}; it has {', '.join(attributes)}"
                )
        return tuple(attributes[name].name for name in wanted)

    runs = [names(run) for run in indexes]
    if filters:
        runs.insert(0, names(filters))
    return Tracking(
        table=target.name,
        key=tuple(column.name for column in target.primary_key.columns),
        keyed=keyed,
        filters=names(filters),
        moments=tuple(dict.fromkeys((*dated(target), *names(moments)))) if keyed else (),
        indexes=tuple(dict.fromkeys(runs)),
        notify=notify,
        schema=target.schema,
    )


def _after_create(target: sa.Table, connection: sa.Connection, **_: Any) -> None:
    if connection.dialect.name in SCHEMAS:
        schema_of(connection).start(connection, tracking_of(target))


def _before_drop(target: sa.Table, connection: sa.Connection, **_: Any) -> None:
    # Its registration is found by its triggers, as long as they are there.
    if connection.dialect.name in SCHEMAS:
        forget(connection, schema_of(connection).registered(connection, tracking_of(target)))
