"""Checks of the options of declarations: a wrong value is refused in one sentence, at once.

Each takes what was written, such as ``SSE(heartbeat='30')``, and raises DeclarationError.
"""

from __future__ import annotations

import math
from typing import Any

from headwater.errors import DeclarationError


def check_seconds(said: str, value: Any, note: str = "", *, zero: bool = False) -> None:
    """A finite number above 0, or from 0 on."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        bound = "0 or more seconds" if zero else "seconds above 0"
        raise DeclarationError(f"{said}: write {bound}{note}")


def check_count(said: str, value: Any, least: int, note: str = "") -> None:
    """A whole number."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise DeclarationError(f"{said}: write a whole number of at least {least}{note}")


def check_kind(said: str, value: Any, kind: Any, what: str) -> None:
    """An instance of a class, or of one of several."""
    if not isinstance(value, kind):
        raise DeclarationError(f"{said}: write {what}")
