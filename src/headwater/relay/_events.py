"""The events that a relay makes of changes, and the checks of its arguments."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headwater.errors import DeclarationError, EncodingError
from headwater.eventlog import EventLog
from headwater.eventlog._record import TOO_DEEP, TOPIC, is_too_deep
from headwater.feeds._source import Change, Place
from headwater.protocol import to_json
from headwater.sql import Table
from headwater.sql.untracked._reader import UntrackedReader


def checked_name(name: str) -> str:
    """The name itself. Raises DeclarationError."""
    if not isinstance(name, str) or not TOPIC.fullmatch(name):
        raise DeclarationError(
            f"relay {name!a}: a relay's name has 1 to 200 characters of 0-9 A-Z a-z . _ : / @ -"
        )
    return name


def check(
    table: Table, log: EventLog, item: Any, start: str, on_reset: str, lease: float, batch: int
) -> None:
    """Raises DeclarationError."""
    if not isinstance(table, Table):
        raise DeclarationError(f"{table!r}: the first argument must be a headwater.sql.Table")
    if not isinstance(log, EventLog):
        raise DeclarationError(f"{log!r}: the second argument must be a log, as from open_log(...)")
    if not (item is None or callable(item)):
        raise DeclarationError(f"item={item!r} must be a pydantic model or a function of a row")
    if isinstance(table.reader, UntrackedReader):
        raise DeclarationError(
            f"table {table.name!r} is not tracked, so a relay could miss rows; "
            "track it with track() and add_tracking()"
        )
    if not log.capabilities.durable:
        raise DeclarationError(
            f"the {log.name} loses its events when the process ends; relay into a log on SQLite, "
            "PostgreSQL, Redis or NATS"
        )
    if start not in ("beginning", "now"):
        raise DeclarationError(f"start={start!r} must be 'beginning' or 'now'")
    if on_reset not in ("stop", "repeat", "skip"):
        raise DeclarationError(f"on_reset={on_reset!r} must be 'stop', 'repeat' or 'skip'")
    if not (isinstance(lease, (int, float)) and 0.1 <= lease <= 3600):
        raise DeclarationError(f"lease={lease!r} must be 0.1 to 3600 seconds")
    kept = log.capabilities.keys_kept
    if kept is not None and kept.total_seconds() < 10 * lease:
        raise DeclarationError(
            f"lease={lease} is too long for the {log.name}, which knows a key for "
            f"{kept.total_seconds():g} s: the lease may be a tenth of that"
        )
    most = log.capabilities.max_batch
    if not (isinstance(batch, int) and 1 <= batch <= most):
        raise DeclarationError(f"batch={batch!r} must be 1 to {most}")


Item = Callable[[Mapping[str, Any]], Any]

# Bytes of one append's events: they are stored in the relay's row first, and wait in memory.
MAX_BYTES = 1024 * 1024


class Events:
    """Makes events of changes.

    Arguments:
        table: the table's name, for error messages.
        key: the names of the key's attributes.
        item: makes an event of a row.
        log: takes the events. Its ``max_event_bytes`` may be less once it is open.
    """

    def __init__(self, table: str, key: Sequence[str], item: Any, log: EventLog) -> None:
        self._table = table
        self._key = tuple(key)
        self._shape: Item | None = getattr(item, "model_validate", item)
        self._log = log

    def of(self, changes: Sequence[Change], most: int) -> tuple[list[str], Place | None, bool]:
        """The events of the first changes, the place where they end, and whether these are all.

        Stops before the events are too many for one append. Stops also before a row that cannot be
        an event, so that the rows before it are appended. Raises EncodingError if that row is the
        first.
        """
        texts: list[str] = []
        place: Place | None = None
        size = 0
        for at, change in enumerate(changes):
            try:
                text = self._text(change)
            except EncodingError:
                if at == 0:
                    raise
                return texts, place, False
            if text is not None:
                size += len(text)
                if texts and (size > MAX_BYTES or len(texts) == most):
                    return texts, place, False
                texts.append(text)
            place = change.place
        return texts, place, True

    def _text(self, change: Change) -> str | None:
        if change.removed:
            return self._checked({"_removed": change.key}, change)
        row = change.item
        try:
            item = row if self._shape is None else self._shape(row)
        except Exception as error:
            raise self._error(change, f"item= raised {type(error).__name__}: {error}") from error
        return None if item is None else self._checked(item, change)

    def _checked(self, item: Any, change: Change) -> str:
        try:
            text = to_json(item)
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise self._error(change, "a lone surrogate cannot be stored as UTF-8") from error
        except EncodingError as error:
            raise self._error(change, self._odd(item) or str(error)) from error
        if not text.startswith("{"):
            raise self._error(
                change, f"an event is a JSON object, and item= gave {type(item).__name__}"
            )
        if is_too_deep(text):
            raise self._error(change, TOO_DEEP)
        most = self._log.max_event_bytes
        if size > most:
            raise self._error(
                change, f"it has {size} bytes of JSON, and the event log takes at most {most}"
            )
        return text

    def _odd(self, item: Any) -> str | None:
        """The message that names the first column that is not JSON; None if all are."""
        if isinstance(item, Mapping):
            for name, value in item.items():
                try:
                    to_json(value)
                except EncodingError as error:
                    return f"column {name!r}: {error}; shape it with item="
        return None

    def _error(self, change: Change, said: str) -> EncodingError:
        key = json.dumps({name: str(change.values.get(name)) for name in self._key})
        return EncodingError(f"table {self._table!r}: the row {key} cannot be an event: {said}")
