"""Makes Alembic's autogenerate propose ``add_tracking`` and ``drop_tracking``."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic.autogenerate import comparators, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import ops

from headwater.sql._links import FORMER, LINKS, links_of
from headwater.sql._migration import drift_of, tracked_in
from headwater.sql._model import TRACKING, tracking_of
from headwater.sql._schemas import SCHEMAS
from headwater.sql._tracking import CHANGE, ORDER, REMOVALS, SINCE, TABLES, Tracking

try:
    from alembic.util import DispatchPriority
except ImportError:
    # Before 1.18 they run in the order in which they were registered.
    _after_all_others = comparators.dispatch_for("schema")
else:
    _after_all_others = comparators.dispatch_for("schema", priority=DispatchPriority.LAST)

_OWN_COLUMNS = (CHANGE, ORDER, SINCE)
_OWN_TABLES = (TABLES.name, REMOVALS.name, LINKS.name, FORMER.name)


class TrackingOp(ops.MigrateOperation):
    """A call of ``add_tracking`` or ``drop_tracking`` in a migration."""

    def __init__(
        self, tracking: Tracking, links: Sequence[str] = (), *, drops: bool = False
    ) -> None:
        self.tracking = tracking
        self.links = links
        self.drops = drops

    def reverse(self) -> TrackingOp:
        return TrackingOp(self.tracking, self.links, drops=not self.drops)

    def to_diff_tuple(self) -> tuple[str, str]:
        return ("drop_tracking" if self.drops else "add_tracking", self.tracking.full_name)


@renderers.dispatch_for(TrackingOp)
def _render(context: AutogenContext, operation: TrackingOp) -> str:
    name = operation.to_diff_tuple()[0]
    context.imports.add(f"from headwater.sql.alembic import {name}")
    tracking = operation.tracking
    if not operation.drops:
        return tracking.call_with(operation.links)
    schema = "" if tracking.schema is None else f", schema={tracking.schema!r}"
    return f"drop_tracking(op, {tracking.table!r}{schema})"


@_after_all_others
def _compare(
    context: AutogenContext, upgrade: ops.UpgradeOps, schemas: Sequence[str | None]
) -> None:
    connection, metadata = context.connection, context.metadata
    if connection is None or connection.dialect.name not in SCHEMAS:
        return
    every = [metadata] if isinstance(metadata, sa.MetaData) else list(metadata or ())
    tables = [table for one in every for table in one.tables.values()]
    wanted = {_key(table): table for table in tables if TRACKING in table.info}
    there = {
        (None if one.schema == context.dialect.default_schema_name else one.schema, one.table): one
        for one in tracked_in(connection)
    }
    first: list[ops.MigrateOperation] = []
    for key in there.keys() - wanted.keys():
        # Of tables that the models have, or that autogenerate drops.
        schema, name = key
        known = any(_key(table) == key for table in tables) or _drops(upgrade, key)
        if schema in schemas and known:
            first.append(TrackingOp(Tracking(name, (), schema=schema), drops=True))
    upgrade.ops[:] = [*first, *(kept for one in upgrade.ops for kept in _without_own(one))]
    found = sa.inspect(connection)
    for (schema, name), table in wanted.items():
        if schema not in schemas:
            continue
        if name not in found.get_table_names(schema) or drift_of(connection, table) is not None:
            upgrade.ops.append(TrackingOp(tracking_of(table), links_of(table)))


def _key(table: sa.Table) -> tuple[str | None, str]:
    return table.schema, table.name


def _drops(upgrade: ops.UpgradeOps, key: tuple[str | None, str]) -> bool:
    return any(
        isinstance(one, ops.DropTableOp) and (one.schema, one.table_name) == key
        for one in upgrade.ops
    )


def _without_own(operation: ops.MigrateOperation) -> list[ops.MigrateOperation]:
    """The operation without what ``add_tracking`` adds."""
    match operation:
        case ops.ModifyTableOps():
            operation.ops = [kept for one in operation.ops for kept in _without_own(one)]
            return [operation] if operation.ops else []
        case ops.CreateTableOp():
            if operation.table_name in _OWN_TABLES:
                return []
            _leave_out(operation)
        case ops.DropTableOp():
            return [] if operation.table_name in _OWN_TABLES else [_dropped(operation)]
        case ops.AddColumnOp():
            return [] if operation.column.name in _OWN_COLUMNS else [operation]
        case ops.DropColumnOp() | ops.AlterColumnOp():
            return [] if operation.column_name in _OWN_COLUMNS else [operation]
        case ops.CreateIndexOp() | ops.DropIndexOp():
            name = operation.index_name or ""
            own = name.endswith(f"_{CHANGE}") or name.startswith("ix_headwater_")
            return [] if own else [operation]
    return [operation]


def _leave_out(operation: ops.CreateTableOp) -> ops.CreateTableOp:
    operation.info = {name: one for name, one in operation.info.items() if name != TRACKING}
    operation.columns = [
        one for one in operation.columns if getattr(one, "name", None) not in _OWN_COLUMNS
    ]
    return operation


def _dropped(operation: ops.DropTableOp) -> ops.DropTableOp:
    """Its reverse makes the table without the columns of the tracking."""
    return ops.DropTableOp.from_table(_leave_out(operation.reverse()).to_table())
