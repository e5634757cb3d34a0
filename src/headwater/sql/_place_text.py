"""How places write numbers, moments and keys as text, for all kinds of tables."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta

# The largest number that a database counts to.
LARGEST = 2**63 - 1
# Where a client began that has nothing yet: beyond every number and transaction.
NEWEST = LARGEST

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
# Two digits at a time.
_PAIRS = tuple(one + other for one in _DIGITS for other in _DIGITS)
_START = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


def base36(value: int) -> str:
    """A number of 0 or more as digits and small letters."""
    digits = ""
    while value >= 1296:
        value, rest = divmod(value, 1296)
        digits = _PAIRS[rest] + digits
    return (_PAIRS[value] if value >= 36 else _DIGITS[value]) + digits


def moment_base36(moment: datetime) -> str:
    """A moment; one before 1970 is that of its beginning."""
    return base36(max(0, (moment - _START) // _TICK))


def moment_at(text: str | None) -> datetime | None:
    """Read ``moment_base36()``. Raises OverflowError for one that is out of range."""
    return None if text is None else _START + int(text, 36) * _TICK


def key_base64(key: str) -> str:
    """A key, which is a JSON list of texts."""
    return urlsafe_b64encode(key.encode()).decode().rstrip("=")


def key_at(text: str) -> str:
    """Read ``key_base64()``. Raises ValueError."""
    key = urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    values = json.loads(key)
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise ValueError(key)
    return key
