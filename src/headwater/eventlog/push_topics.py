"""One followed topic of a log that pushes: who follows it, and how far they are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from headwater.errors import ResetReason
from headwater.eventlog.interface import Follower
from headwater.eventlog.pushes import Push
from headwater.eventlog.record import START, Bounds, Offset, Record

__all__ = ["Followed", "Following"]

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Following:
    """One follower. ``last`` is what it was told of; ``held`` waits until it is admitted."""

    follower: Follower
    last: Offset = START
    held: list[Record] | None = field(default_factory=list)

    def begin(self, last: Offset) -> None:
        """It has everything up to here. More may have come since, but not all that was before."""
        held = [record for record in self.held or () if record.offset > last]
        self.held = held
        self.last = held[-1].offset if held else last


@dataclass(slots=True, eq=False)
class Followed:
    """One topic.

    Attributes:
        name: of the topic.
        followings: who follows it.
        last: up to where its records were handed over; None until its bounds are known.
        target: the highest offset that was pushed.
        held: what was pushed before the bounds were known.
        sure: nothing before the next push can have been missed.
    """

    name: str
    followings: list[Following] = field(default_factory=list)
    last: Offset | None = None
    target: Offset = START
    held: list[Push] = field(default_factory=list)
    sure: bool = True

    def add(self, follower: Follower) -> Following:
        """Keep for a follower, from now on, what it may have to be told."""
        following = Following(follower)
        self.followings.append(following)
        return following

    def admit(self, following: Following) -> None:
        """Hand over what was kept, and from now on what comes."""
        held, following.held = following.held, None
        if held and following in self.followings:
            _tell(self.name, following.follower.deliver, held)

    def begin(self, last: Offset) -> bool:
        """The bounds are known. False: something is missing."""
        if self.last is None:
            self.last = last
        held, self.held = self.held, []
        complete = True
        for push in held:
            complete = self.take(push) and complete
        return complete

    def remove(self, follower: Follower) -> bool:
        """Whether it was the last one."""
        left = [one for one in self.followings if one.follower is not follower]
        was_here = len(left) < len(self.followings)
        self.followings = left
        return was_here and not left

    def take(self, push: Push) -> bool:
        """Hand over what was pushed. False: it does not follow on what was before."""
        self.target = max(self.target, push.last)
        if self.last is None:
            self.held.append(push)
            return True
        if push.last <= self.last:
            return True
        if push.before > self.last or push.records is None or not self.sure:
            return False
        self.deliver(push.records)
        return True

    def deliver(self, records: Sequence[Record]) -> None:
        """Hand over those that were not yet. None may be missing before the first that is new."""
        last = self.last or START
        records = [record for record in records if record.offset > last]
        if not records:
            return
        self.last = records[-1].offset
        for one in tuple(self.followings):
            news = [record for record in records if record.offset > one.last]
            if news:
                one.last = self.last
                if one.held is not None:
                    one.held += news
                else:
                    _tell(self.name, one.follower.deliver, news)

    def is_at(self, latest: Offset) -> bool:
        """Whether nothing that is known of is missing."""
        return self.last is not None and self.last >= latest and self.last >= self.target

    def reset(self, reason: ResetReason, bounds: Bounds) -> None:
        """Tell every follower (``unknown``), or who lost records; they go on after it all."""
        if reason == "unknown" or self.last is None:
            self.last = self.target = bounds.latest
            self.sure = True
            self.held.clear()
        else:
            # A follower that came later may have lost nothing, and needs what is still kept.
            self.last = max(self.last, bounds.earliest)
        for one in tuple(self.followings):
            if one.held is not None:
                one.held.clear()  # it has not been told where it begins
            elif reason == "unknown" or bounds.earliest > one.last:
                one.last = bounds.latest
                _tell(self.name, one.follower.reset, reason, bounds)


def _tell(topic: str, say: Callable[..., None], *what: object) -> None:
    try:
        say(*what)
    except Exception:
        _log.exception("a follower of topic %s failed", topic)
