"""Checks of a relay's arguments, each with a clear error."""

from __future__ import annotations

import re

from headwater.errors import DeclarationError
from headwater.eventlog import EventLog
from headwater.sql import Table
from headwater.sql.untracked.reader import UntrackedReader

__all__ = ["check", "checked_name"]

_NAME = re.compile(r"[0-9A-Za-z._:/@-]{1,200}")


def checked_name(name: str) -> str:
    """Checks and returns the name. Raises DeclarationError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DeclarationError(
            f"relay {name!a}: a relay's name has 1 to 200 characters of 0-9 A-Z a-z . _ : / @ -"
        )
    return name


def check(table: Table, log: EventLog, start: str, on_reset: str, lease: float, batch: int) -> None:
    """Raises DeclarationError."""
    if isinstance(table.reader, UntrackedReader):
        raise DeclarationError(
            f"table {table.name!r} is not tracked, so there is no exact way to relay it; "
            "track it with track() and add_tracking()"
        )
    if not log.capabilities.durable:
        raise DeclarationError(
            f"a relay into the {log.name} would be forgotten with the process; give a log that "
            "outlives it"
        )
    if start not in ("beginning", "now"):
        raise DeclarationError(f"start={start!r} must be 'beginning' or 'now'")
    if on_reset not in ("stop", "repeat", "skip"):
        raise DeclarationError(f"on_reset={on_reset!r} must be 'stop', 'repeat' or 'skip'")
    if not 0.1 <= lease <= 3600:
        raise DeclarationError(f"lease={lease} must be 0.1 to 3600 seconds")
    kept = log.capabilities.keys_kept
    if kept is not None and kept.total_seconds() < 10 * lease:
        raise DeclarationError(
            f"lease={lease} is too long for the {log.name}, which knows a key for "
            f"{kept.total_seconds():g} s: it must know it ten times as long"
        )
    most = log.capabilities.max_batch
    if not 1 <= batch <= most:
        raise DeclarationError(f"batch={batch} must be 1 to {most}")
