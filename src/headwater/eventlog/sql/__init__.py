"""An event log in a SQL database: SQLite or PostgreSQL.

Each topic counts its own records in a row that its writers lock, so the order of a topic is the
order of its commits.
"""

from headwater.eventlog.sql._log import (
    SqlLog,
    create_tables,
    drop_tables,
    open_postgresql,
    open_sqlite,
)
from headwater.eventlog.sql._tables import METADATA

__all__ = [
    "METADATA", "SqlLog", "create_tables", "drop_tables", "open_postgresql", "open_sqlite",
]  # fmt: skip
