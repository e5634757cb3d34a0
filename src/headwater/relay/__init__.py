"""A relay moves a tracked SQL table into a topic of an event log, each change exactly once."""

from importlib.util import find_spec as _find_spec

from headwater.errors import MissingExtraError

if _find_spec("sqlalchemy") is None:
    raise MissingExtraError("sql", "sqlalchemy")

from headwater.errors import RelayStoppedError
from headwater.relay._ledger import create_tables
from headwater.relay._relay import OnReset, Relay, Start

__all__ = ["OnReset", "Relay", "RelayStoppedError", "Start", "create_tables"]
