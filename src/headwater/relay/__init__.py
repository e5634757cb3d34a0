"""A relay moves a tracked SQL table into a topic of an event log, each change exactly once."""

from headwater.errors import MissingExtraError

try:
    import sqlalchemy as _sqlalchemy  # noqa: F401 - whether it is here
except ImportError as error:
    raise MissingExtraError("sql", "sqlalchemy") from error

from headwater.errors import RelayStoppedError
from headwater.relay._ledger import create_tables
from headwater.relay._relay import OnReset, Relay, Start

__all__ = ["OnReset", "Relay", "RelayStoppedError", "Start", "create_tables"]
