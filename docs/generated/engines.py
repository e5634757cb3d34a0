"""What each engine of an event log declares of itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

__all__ = ["engines"]

_ADDRESSES = {
    "memory": "memory://",
    "SQLite": "sqlite:///events.db",
    "PostgreSQL": "postgresql://host/name",
    "Redis, Valkey": "redis://host",
    "NATS": "nats://host",
}
_MEANINGS = {
    "durable": "outlives the process that appended",
    "multi_process": "many processes append and follow",
    "transactional": "an append joins your SQL transaction",
    "trim_by_size": "`trim` takes `max_bytes`",
    "max_batch": "events of one `append`, at most",
    "keys_kept": "an append's key is known",
}


def engines() -> str:
    """The capabilities of each engine, as its log object has them."""
    from headwater.eventlog import open_log

    logs = {name: open_log(address) for name, address in _ADDRESSES.items()}
    rows = [["", *logs]]
    rows.append(["largest event, bytes", *(f"{log.max_event_bytes:,}" for log in logs.values())])
    for attribute, meaning in _MEANINGS.items():
        values = [getattr(log.capabilities, attribute) for log in logs.values()]
        rows.append([meaning, *(_shown(attribute, value) for value in values)])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _shown(attribute: str, value: Any) -> str:
    if attribute == "keys_kept" and value is None:
        return "while its events are kept"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, timedelta):
        return f"for {value / timedelta(hours=1):g} h, or `keys_kept`"
    return f"{value:,}"
