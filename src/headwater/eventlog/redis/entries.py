"""Ids of Redis streams as offsets, and entries of them as records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from headwater.eventlog.record import START, Bounds, Offset, Record

__all__ = ["bounds_of", "from_id", "moment_of", "offset_of", "records_of", "until_id"]

_DAWN = datetime(1970, 1, 1, tzinfo=UTC)
# Both halves of an id have 64 bits.
_MOST = 2**64 - 1
_LAST = f"{_MOST}-{_MOST}"


def offset_of(text: str) -> Offset:
    """The offset of an id; ``0-0`` comes before all."""
    ms, _, number = text.partition("-")
    offset = Offset.of(int(ms), int(number))
    return offset if offset > (0, 0) else START


def moment_of(text: str) -> datetime:
    """The moment when the server gave out the id, UTC, to the millisecond, by its clock."""
    return _DAWN + timedelta(milliseconds=int(text.partition("-")[0]))


def from_id(after: Offset) -> str:
    """The start of a range that begins just after an offset."""
    if after >= (_MOST, _MOST):
        return _LAST  # no record is there, and no range may begin after it
    if len(after) == 1:
        # START, or the offset of another engine: below 7-0, which has a second number.
        return f"{after[0]}-0"
    return f"({after[0]}-{min(after[1], _MOST)}"


def until_id(before: Offset | None) -> str:
    """The end of a range that ends just before an offset."""
    if before is None or before[0] > _MOST:
        return "+"
    if len(before) == 1:
        return "-" if before[0] == 0 else f"({before[0]}-0"
    if before == (0, 0):
        return "-"
    return f"({before[0]}-{min(before[1], _MOST)}"


def bounds_of(epoch: bytes, latest: bytes, earliest: bytes) -> Bounds:
    """Bounds from what a script returned."""
    return Bounds(epoch.decode(), offset_of(earliest.decode()), offset_of(latest.decode()))


def records_of(topic: str, entries: Sequence[Any]) -> list[Record]:
    """The records of entries, in their order."""
    records = []
    for name, fields in entries:
        text = name.decode()
        key = fields[3].decode() if len(fields) > 3 else None
        records.append(Record(topic, offset_of(text), moment_of(text), json.loads(fields[1]), key))
    return records
