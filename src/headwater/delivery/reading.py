"""What was read of a source for streams: bytes, and where a client is that was sent them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from headwater.feeds.source import Place

__all__ = ["Reading"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of the source, as the bytes that a client is sent.

    Attributes:
        data: events.
        end: the place of a client that was sent them.
        life: that of the channel when the read began.
        epoch: that of the storage.
        frames: the number of items and removals.
        holds: the place that the client's last id names then, if it is not ``end``.
        removed_until: up to this moment the removals of what left the time window were sent.
    """

    data: bytes
    end: Place
    life: int
    epoch: str
    frames: int = 0
    holds: Place | None = None
    removed_until: datetime | None = None
