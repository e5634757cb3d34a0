"""The states of a polled function: places in them, and the difference of two."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headwater.errors import EncodingError
from headwater.feeds._source import Change, OrderedPlace

_TEXT = re.compile(r"([0-9a-f]{24})(?:-(0|[1-9][0-9]{0,8}))?")


@dataclass(frozen=True, slots=True)
class PollPlace(OrderedPlace):
    """A state, or a part of it.

    Attributes:
        digest: the hash of its content; empty for nothing.
        number: its number in this process.
        sent: the client has so many of its items, from the first on; None for all of them.
    """

    digest: str
    number: int
    sent: int | None = None

    def includes(self, other: PollPlace) -> bool:
        if self.sent is None:
            return self.number >= other.number
        # It lacks items of every state that it does not have whole.
        return self.number == other.number and other.sent is not None and self.sent >= other.sent

    def __str__(self) -> str:
        return self.digest if self.sent is None else f"{self.digest}-{self.sent}"

    @classmethod
    def parse(cls, text: str) -> PollPlace | None:
        """Read ``str()``, without the number; None for anything else."""
        found = _TEXT.fullmatch(text)
        if found is None:
            return None
        return cls(found[1], -1, None if found[2] is None else int(found[2]))


@dataclass(frozen=True, slots=True)
class PollState:
    """What a function returned.

    Attributes:
        place: of a client that has all of it.
        digests: by key, the hash of the item.
        at_time: the loop's time of the call.
    """

    place: PollPlace
    items: Sequence[Any]
    digests: Mapping[Hashable, bytes] = field(default_factory=dict)
    at_time: float = 0.0

    def at(self, sent: int) -> PollPlace:
        """The place of a client that has so many of its items."""
        if sent >= len(self.items):
            return self.place
        return PollPlace(self.place.digest, self.place.number, sent)

    def first(self, sent: int) -> PollState:
        """The state as a client knows it that has so many of its items."""
        digests = dict(list(self.digests.items())[:sent])
        return PollState(self.place, self.items[:sent], digests, self.at_time)


def difference(old: PollState, new: PollState, key: str) -> list[Change]:
    """The changes from one state to another. Only the last one has a place to resume from."""
    changes = [
        Change(None, {}, removed=True, key={key: name})
        for name in old.digests
        if name not in new.digests
    ]
    for item, (name, digest) in zip(new.items, new.digests.items(), strict=True):
        if old.digests.get(name) != digest:
            changes.append(Change(None, {}, item, key={key: name}))
    if changes:
        changes[-1].place = new.place
    return changes


def key_of(item: Any, key: str) -> Hashable:
    """The key of an item. Raises EncodingError for one without."""
    try:
        found: Hashable = item[key] if isinstance(item, Mapping) else getattr(item, key)
    except (KeyError, AttributeError):
        raise EncodingError(
            f"an item has no {key!r}, which is the poll's key: {item!r:.200}"
        ) from None
    hash(found)
    return found
