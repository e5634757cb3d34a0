"""Exact tails of SQL tables: what is committed reaches every client once."""

from headwater.errors import MissingExtraError

try:
    import sqlalchemy as _sqlalchemy  # noqa: F401 - whether it is here
except ImportError as error:
    raise MissingExtraError("sql", "sqlalchemy") from error

from headwater.sql.declaration import track, track_table
from headwater.sql.migration import renew_epochs
from headwater.sql.postgresql.connections import postgresql_engine
from headwater.sql.query.live import LiveQuery, QuerySource
from headwater.sql.sqlite.connections import configure_sqlite, sqlite_engine
from headwater.sql.sqlite.place import RowPlace
from headwater.sql.table import Table, TableSource
from headwater.sql.tail import TableOrigin
from headwater.sql.values import NULL

__all__ = [
    "NULL",
    "LiveQuery",
    "QuerySource",
    "RowPlace",
    "Table",
    "TableOrigin",
    "TableSource",
    "configure_sqlite",
    "postgresql_engine",
    "renew_epochs",
    "sqlite_engine",
    "track",
    "track_table",
]
