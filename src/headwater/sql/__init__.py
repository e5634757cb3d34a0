"""Exact tails of SQL tables: what is committed reaches every client once."""

from importlib.util import find_spec as _find_spec

from headwater.errors import MissingExtraError

if _find_spec("sqlalchemy") is None:
    raise MissingExtraError("sql", "sqlalchemy")

from headwater.sql._declaration import track, track_table
from headwater.sql._migration import renew_epochs
from headwater.sql._table import Table, TableSource
from headwater.sql._tail import TableOrigin
from headwater.sql._values import NULL
from headwater.sql.postgresql._connections import postgresql_engine
from headwater.sql.query._live import LiveQuery, QuerySource
from headwater.sql.sqlite._connections import configure_sqlite, sqlite_engine
from headwater.sql.sqlite._place import RowPlace

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
