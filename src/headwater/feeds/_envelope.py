"""Envelopes: a JSON object around all that a feed answers, as some applications have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.errors import DeclarationError, EncodingError
from headwater.protocol import to_json

# Stands for the content while the rest is encoded: no other JSON has it.
_PLACE = "headwater:content"


def member_of(envelope: Mapping[str, Any]) -> str | None:
    """The member in which the content stands; None unless there is exactly one."""
    found = [name for name, value in envelope.items() if value is ...]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else None


def around(feed: str, envelope: Mapping[str, Any] | None) -> tuple[bytes, bytes]:
    """What stands before and after the content; empty without an envelope.

    Raises DeclarationError for one that has no place for it, or cannot be JSON.
    """
    if envelope is None:
        return b"", b""
    member = member_of(envelope) if isinstance(envelope, Mapping) else None
    if member is None:
        raise DeclarationError(
            f"feed {feed!r}: envelope={envelope!r} must be a mapping with `...` as one value, in "
            'the place of the content, such as {"success": True, "data": ...}'
        )
    try:
        text = to_json({**envelope, member: _PLACE})
    except EncodingError as error:
        raise DeclarationError(f"feed {feed!r}: envelope={envelope!r}: {error}") from error
    before, _, after = text.partition(to_json(_PLACE))
    return before.encode(), after.encode()
