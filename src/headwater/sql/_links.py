"""Link tracking: what live queries need of a table beside its changes.

A *link column* of a table is one that a live query joins by, has a condition on, uses as its key
or is filtered by. A table with links has one more column, ``headwater_since``: the change that set
a link column of the row last. Where a link column changes and where a row is deleted, triggers keep
the former links, so that a live query can tell which of its rows a client may have seen.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from headwater.errors import DeclarationError
from headwater.sql._model import tracking_of
from headwater.sql._schemas import LINK_TRIGGERS, SCHEMAS, schema_of
from headwater.sql._tracking import (
    JSON,
    MOMENT,
    NUMBER,
    SINCE,
    Tracking,
    add_own_tables,
    new_epoch,
)
from headwater.sql.postgresql._catalogue import read_registered

_INFO = "headwater_links"


def _own_tables(metadata: sa.MetaData) -> tuple[sa.Table, sa.Table]:
    """The tables of links in a metadata. As all of Headwater's they have no schema."""
    if "headwater_links" in metadata.tables:
        return metadata.tables["headwater_links"], metadata.tables["headwater_former_links"]
    # One row per table with links: the columns. Former links up to the change ``floor`` may have
    # been trimmed, and those up to ``retiring`` are next. The epoch is renewed when a column is
    # added, of which former rows know nothing.
    links = sa.Table(
        "headwater_links",
        metadata,
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("epoch", sa.Text, nullable=False),
        sa.Column("links", sa.Text, nullable=False),
        sa.Column("floor", sa.BigInteger, nullable=False),
        sa.Column("retiring", sa.BigInteger, nullable=True),
        schema=sa.BLANK_SCHEMA,
    )
    # The links of rows that were deleted or linked otherwise by ``change``, as they had been since
    # ``since``. ``links`` is a JSON object by column name.
    former = sa.Table(
        "headwater_former_links",
        metadata,
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            sa.Identity(always=False),
            primary_key=True,
        ),
        sa.Column("table_name", sa.Text, nullable=False),
        sa.Column("change", NUMBER, nullable=False),
        sa.Column("since", NUMBER, nullable=False),
        sa.Column("links", JSON, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Index("ix_headwater_former_links", "table_name", "change"),
        schema=sa.BLANK_SCHEMA,
    )
    return links, former


_own = sa.MetaData()
LINKS, FORMER = _own_tables(_own)


def declare_links(table: sa.Table, columns: Collection[str]) -> None:
    """Note link columns of a tracked table, so that ``metadata.create_all`` tracks them.

    Raises DeclarationError for a table that is not tracked with ``keyed=True``.
    """
    tracking = tracking_of(table)
    if not tracking.keyed:
        raise DeclarationError(
            f"table {table.name!r} is tracked append-only, so its updates go unnoticed: a live "
            "query needs @headwater.sql.track(keyed=True)"
        )
    known = links_of(table)
    if _INFO not in table.info:
        zero = sa.text("'0'")
        # A STRICT table of SQLite takes no BIGINT.
        kind = NUMBER.with_variant(sa.Integer(), "sqlite")
        table.append_column(sa.Column(SINCE, kind, nullable=False, server_default=zero))
        for own in _own_tables(table.metadata):
            table.add_is_dependent_on(own)
        add_own_tables(table.metadata)
        event.listen(table, "after_create", _after_create)
        event.listen(table, "after_drop", _after_drop)
    table.info[_INFO] = tuple(sorted({*known, *columns}))


def links_of(table: sa.Table) -> tuple[str, ...]:
    """The link columns that were declared for a table."""
    found: tuple[str, ...] = table.info.get(_INFO, ())
    return found


def add_links(
    connection: sa.Connection, tracking: Tracking, links: Collection[str], *, has_column: bool
) -> None:
    """Track the links of a table that is tracked already. May be repeated.

    Arguments:
        links: its link columns; those of an earlier call stay.
        has_column: it has the column ``headwater_since``.
    """
    _own.create_all(connection, checkfirst=True)
    schema = schema_of(connection)
    tracking = schema.registered(connection, tracking)
    mine = LINKS.c.name == tracking.name
    found = connection.execute(sa.select(LINKS.c.links).where(mine)).scalar()
    known = set(json.loads(found)) if found is not None and has_column else set()
    # Without these triggers, or with others, links may have changed unseen.
    missed = bool(known and schema.links_drift(connection, tracking, sorted(known)))
    every = sorted({*known, *links})
    triggers = LINK_TRIGGERS[connection.dialect.name]
    triggers.install(connection, tracking, every, has_column=has_column)
    if found is None or not has_column:
        _forget(connection, tracking.name)
        connection.execute(
            LINKS.insert().values(
                name=tracking.name, epoch=new_epoch(), links=json.dumps(every), floor=0
            )
        )
    elif missed or set(every) != known:
        connection.execute(
            LINKS.update().where(mine).values(epoch=new_epoch(), links=json.dumps(every))
        )


def links_drift(connection: sa.Connection, tracking: Tracking) -> list[str]:
    """A sentence for each difference between the triggers of links and what they should be.

    ``tracking``: with the name of its registration. Empty for a table without links.
    """
    if not sa.inspect(connection).has_table(LINKS.name):
        return []
    found = connection.scalar(sa.select(LINKS.c.links).where(LINKS.c.name == tracking.name))
    if found is None:
        return []
    wrong: list[str] = schema_of(connection).links_drift(connection, tracking, json.loads(found))
    return wrong


def drop_links(connection: sa.Connection, tracking: Tracking) -> None:
    """Undo ``add_links``."""
    _own.create_all(connection, checkfirst=True)
    tracking = schema_of(connection).registered(connection, tracking)
    LINK_TRIGGERS[connection.dialect.name].drop(connection, tracking)
    _forget(connection, tracking.name)


def renew_links(connection: sa.Connection, names: Iterable[str]) -> None:
    """On PostgreSQL: begin new epochs, and forget former links and transactions of a server."""
    if not sa.inspect(connection).has_table(LINKS.name):
        return
    found = connection.scalars(sa.select(LINKS.c.name)).all()
    there = dict(read_registered(connection))
    for name in set(found).intersection(names):
        if name in there:
            LINK_TRIGGERS["postgresql"].renew(connection, there[name])
        mine = LINKS.c.name == name
        connection.execute(
            LINKS.update().where(mine).values(epoch=new_epoch(), floor=0, retiring=None)
        )
        connection.execute(FORMER.delete().where(FORMER.c.table_name == name))


def _forget(connection: sa.Connection, name: str) -> None:
    connection.execute(LINKS.delete().where(LINKS.c.name == name))
    connection.execute(FORMER.delete().where(FORMER.c.table_name == name))


def _after_create(target: sa.Table, connection: sa.Connection, **_: Any) -> None:
    if connection.dialect.name not in SCHEMAS:
        return
    tracking = tracking_of(target)
    _own.create_all(connection, checkfirst=True)
    _forget(connection, tracking.name)
    add_links(connection, tracking, links_of(target), has_column=True)


def _after_drop(target: sa.Table, connection: sa.Connection, **_: Any) -> None:
    if connection.dialect.name in SCHEMAS:
        _forget(connection, tracking_of(target).name)
