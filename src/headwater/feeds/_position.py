"""Positions: opaque tokens for a place in a feed.

A token is ``1.<feed>.<epoch>.<place>``. ``feed`` is a fingerprint of the feed's name, so a position
of another feed is refused. ``epoch`` names one life of the source's storage, so a position from
another database is refused. ``place`` is the source's own text. None of the characters needs an
escape in a header, a query or an event's ``id``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from headwater.errors import PositionError, UsageError

# A position travels in a header; common proxies accept 8 KB for all headers together.
MAX_LENGTH = 2048

_TOKEN = re.compile(r"1\.([0-9a-z]{1,16})\.([0-9A-Za-z]{1,40})\.([0-9A-Za-z_~:,-]{1,1900})")
_EPOCH = re.compile(r"[0-9A-Za-z]{1,40}")
_PLACE = re.compile(r"[0-9A-Za-z_~:,-]{1,1900}")


def fingerprint(name: str) -> str:
    """Six characters by which a feed recognises its own positions."""
    return hashlib.blake2s(name.encode(), digest_size=3).hexdigest()


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a feed, as clients hold it. ``str()`` gives the token.

    Attributes:
        feed: the feed's fingerprint.
        epoch: one life of the source's storage, ``[0-9A-Za-z]``, at most 40 characters.
        place: the source's own text, ``[0-9A-Za-z_~:,-]``, at most 1900 characters.
    """

    feed: str
    epoch: str
    place: str

    def __post_init__(self) -> None:
        if not _EPOCH.fullmatch(self.epoch):
            raise UsageError(f"epoch {self.epoch!r}: write 1 to 40 letters and digits")
        if not _PLACE.fullmatch(self.place):
            raise UsageError(
                f"place {self.place!r}: write 1 to 1900 characters of 0-9 A-Z a-z _ ~ : , -"
            )

    def __str__(self) -> str:
        return f"1.{self.feed}.{self.epoch}.{self.place}"

    @classmethod
    def parse(cls, token: str) -> Position:
        """Read a token. Raises PositionError (``unknown``) for anything else."""
        found = _TOKEN.fullmatch(token) if len(token) <= MAX_LENGTH else None
        if found is None:
            raise PositionError(token, "unknown", "it is not a position that this server gave out")
        return cls(*found.groups())
