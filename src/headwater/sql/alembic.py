"""Tracking in migrations: for new tables and for those that hold rows already.

    from headwater.sql.alembic import add_tracking, drop_tracking

    def upgrade() -> None:
        op.create_table("logs", ...)
        add_tracking(op, "logs", indexes=[("user_id",)])

The arguments are column names, where ``track()`` takes attributes. Call ``add_tracking`` again when
the declaration changes, or when a batch operation rebuilt the table, which drops its triggers.
Numbers and positions stay.

Autogenerate writes these calls itself once ``env.py`` imports this module. It then leaves out what
``add_tracking`` adds: columns, indexes and Headwater's own tables.
"""

from __future__ import annotations

from typing import Any

from headwater.sql import _autogenerate as autogenerate  # noqa: F401 - for its hooks
from headwater.sql._migration import add_tracking, drop_tracking, renew_epochs
from headwater.sql._tracking import CHANGE

__all__ = ["add_tracking", "drop_tracking", "include_object", "renew_epochs"]


def include_object(
    _object: Any, name: str | None, kind: str, reflected: bool, compare_to: Any
) -> bool:
    """For Alembic's ``context.configure``: leaves out what ``add_tracking`` added."""
    own = name is not None and (name.startswith("headwater_") or name.endswith(f"_{CHANGE}"))
    return not (own and (kind == "index" or (reflected and compare_to is None)))
