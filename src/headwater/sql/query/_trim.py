"""Retention of former links."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from headwater.sql._expressions import Condition
from headwater.sql._links import FORMER, LINKS
from headwater.sql._tracking import TABLES, Tracking
from headwater.sql._trim import Trim
from headwater.sql.postgresql._conditions import bound
from headwater.sql.postgresql._triggers import notification
from headwater.sql.sqlite._place import text_of


def link_trim(tracking: Tracking, cutoff: datetime, dialect: sa.Dialect) -> Trim:
    """A run over the former links of one table that are older than ``cutoff``."""
    older: Condition = FORMER.c.at < cutoff
    # A transaction that still runs may add former links below those of younger ones.
    settled: Condition = FORMER.c.change < bound(total=True)
    wake = notification(tracking)
    if dialect.name == "sqlite":
        older, settled = FORMER.c.at < text_of(cutoff), FORMER.c.change > 0
        # A number that no change has: the tails of all processes look.
        wake = TABLES.update().where(TABLES.c.name == tracking.name)
        wake = wake.values(last=TABLES.c.last + 1)
    complete = sa.and_(FORMER.c.table_name == tracking.name, settled)
    order = [FORMER.c.change, FORMER.c.number]
    return Trim(LINKS, tracking.name, FORMER, [FORMER.c.number], order, complete, older, wake=wake)
