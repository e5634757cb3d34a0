"""The event log: an append-only, ordered store of events by topic, on an existing engine.

A reader joins history to live events in the same way on every engine. It calls ``follow``, which
returns bounds, and then ``read`` up to ``bounds.latest``. The log delivers every later record to
the follower. So no record is missing, and none comes twice.

A topic of a log is a source of feeds: ``Topic``.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2s
from typing import Any, Protocol, Self, TypeVar, runtime_checkable
from weakref import WeakKeyDictionary, WeakValueDictionary

from headwater.errors import PositionError, ResetReason, UsageError
from headwater.eventlog._record import (
    MAX_EVENT_BYTES,
    START,
    Bounds,
    Capabilities,
    Offset,
    Record,
    Run,
    check_topic,
)
from headwater.feeds._shared_calls import CoalescedCall
from headwater.feeds._source import Change, OrderedPlace, Origin, Page, Place, Sink, Source

_log = logging.getLogger(__name__)

_TAG = re.compile("[0-9a-f]{8}")


@runtime_checkable
class Follower(Protocol):
    """Receives the records of a topic. Called in the event loop; its exceptions are logged.

    A method must not block.
    """

    def deliver(self, records: Sequence[Record]) -> None:
        """The next records, at least one, in the topic's order."""
        ...

    def reset(self, reason: ResetReason, bounds: Bounds) -> None:
        """This follower lost records; the next record comes after ``bounds.latest``.

        ``expired``: the records were trimmed before they were delivered. ``unknown``: the storage
        is another one.
        """
        ...


class EventLog(ABC):
    """One event log. A process has one reader for all topics, however many are followed.

    A topic begins with its first append. Names have 1 to 200 characters of ``0-9 A-Z a-z . _ : /
    @ -``. A topic whose name begins with ``run:`` is kept whole: a trim of all topics does not
    touch it, and the engine removes none of its records by itself. Every method but ``close``
    raises SourceUnavailableError while the engine is away. It raises UsageError for a call that can
    never work; nothing was appended then. So does every method but ``unfollow`` and ``close`` of a
    log that was closed.
    """

    name: str
    capabilities: Capabilities
    max_event_bytes: int = MAX_EVENT_BYTES

    async def start(self) -> None:  # an engine without I/O has nothing to open
        """Open the engine, and create its tables or streams. Other methods do so at first use."""

    @abstractmethod
    async def append(
        self,
        topic: str,
        data: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        *,
        key: str | None = None,
        connection: Any = None,
    ) -> list[Record]:
        """Append one event or several, all or none, next to each other. Returns their records.

        A retry with a ``key`` that the topic knows appends nothing. It returns the records of the
        first append, if they are still kept. With ``connection`` (``capabilities.transactional``)
        the append joins the caller's transaction: it is published only if that commits.
        """

    @abstractmethod
    async def read(self, topic: str, after: Offset, limit: int) -> Run:
        """The first records after an offset. Compare the offset with the bounds: see ``Bounds``."""

    @abstractmethod
    async def latest(self, topic: str, limit: int, before: Offset | None = None) -> Run:
        """The latest records, or the latest of those below ``before``. Oldest first."""

    @abstractmethod
    async def bounds(self, topic: str) -> Bounds:
        """The epoch, and the range of offsets that can be resumed at."""

    @abstractmethod
    async def follow(self, topic: str, follower: Follower) -> Bounds:
        """Deliver every record after the returned ``latest`` to ``follower``.

        When the engine goes away later, the log retries with back-off. It then delivers all that
        the engine has kept.
        """

    @abstractmethod
    async def unfollow(self, topic: str, follower: Follower) -> None:
        """End following, also for a ``follow`` that still runs. An unknown follower is ignored.

        After it returns, nothing is delivered.
        """

    @abstractmethod
    async def trim(
        self,
        topic: str | None = None,
        *,
        max_age: timedelta | None = None,
        max_count: int | None = None,
        max_bytes: int | None = None,
        before: Offset | None = None,
    ) -> int:
        """Remove the oldest records beyond any of the limits, of one topic or of all.

        Without a topic it leaves out topics that are kept whole (``run:``). ``before`` needs a
        topic, and removes the records below an offset. Returns how many were removed.
        ``max_bytes`` counts the events' JSON and needs ``capabilities.trim_by_size``.
        """

    @abstractmethod
    async def forget(self, *topics: str) -> None:
        """Remove topics with all that the log knows of them, as if they had never been.

        Followers are reset. The next append to one begins it anew. A log that forgets keys after
        ``capabilities.keys_kept`` may know them until then: an append with one gives no records.
        """

    def another(self) -> EventLog:
        """Another log on the same storage, for another event loop. The caller closes it.

        Raises UsageError if the storage can be used by one event loop only.
        """
        raise UsageError(f"{self.name} can be used by one event loop only")

    @abstractmethod
    async def close(self) -> None:
        """Stop following, and close what was opened once the appends that run are done. Idempotent.

        An append that did not begin, and a follower that waits for its bounds, get UsageError.
        """

    def topic(self, name: str) -> Topic:
        """A source for a feed. Sources of a topic share one origin while any of them is in use."""
        return Topic(self, name)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


@dataclass(frozen=True, slots=True)
class TopicPlace(OrderedPlace):
    """An offset as a place, bound to the record that stands there; the epoch binds it to its topic.

    The start of an empty page is just after a record, as it has no first one: ``7~`` for 7.

    Attributes:
        offset: the record's, or the topic's ``latest``.
        tag: a hash of the record's mark.
        past: whether a page before this place ends with the record at the offset.
    """

    offset: Offset
    tag: str
    past: bool = False

    @classmethod
    def of(cls, offset: Offset, mark: str) -> TopicPlace:
        """The place of the record with this mark. It is empty if there is no record."""
        return cls(offset, _tag(mark))

    def includes(self, other: TopicPlace, /) -> bool:
        return self.offset >= other.offset

    def __str__(self) -> str:
        return f"{self.offset}{'~' if self.past else ''}:{self.tag}"

    @classmethod
    def parse(cls, text: str) -> TopicPlace:
        """Read what ``str()`` gave. Raises UsageError for anything else."""
        offset, _, tag = text.partition(":")
        if not _TAG.fullmatch(tag):
            raise UsageError(f"{text[:80]!a} is not the text of a place in a topic")
        return cls(Offset.parse(offset.removesuffix("~")), tag, offset.endswith("~"))


def _tag(mark: str) -> str:
    return blake2s(mark.encode(), digest_size=4).hexdigest()


def event_item(record: Record) -> dict[str, Any]:
    """The event's data with ``id`` (the offset's text) and ``at`` (UTC) where it has none."""
    item = dict(record.data)
    item.setdefault("id", str(record.offset))
    if "at" not in item:
        item["at"] = record.at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return item


def place_of(record: Record) -> TopicPlace:
    """The place just after a record."""
    return TopicPlace.of(record.offset, record.mark)


def _end_of(bounds: Bounds) -> TopicPlace:
    return TopicPlace.of(bounds.latest, bounds.mark)


def _change(record: Record) -> Change:
    return Change(place_of(record), values=record.data, item=event_item(record))


class TopicOrigin(Origin):
    """One topic as an origin: it passes the records on to the hub as changes."""

    def __init__(self, log: EventLog, topic: str) -> None:
        self.name = f"topic {topic} of {log.name}"
        self.log = log
        self.topic = topic
        self._sink: Sink | None = None
        self._epoch: str | None = None
        self._bounds: CoalescedCall[Bounds] | None = None

    async def attach(self, sink: Sink, /) -> TopicPlace:
        self._sink = sink
        try:
            bounds = await self.log.follow(self.topic, self)
        except BaseException:
            self._sink = None
            raise
        self._epoch = self.epoch_in(bounds)
        self._bounds = CoalescedCall(lambda: self.log.bounds(self.topic))
        return _end_of(bounds)

    async def detach(self) -> None:
        self._sink = self._epoch = self._bounds = None
        await self.log.unfollow(self.topic, self)

    async def epoch(self) -> str:
        return self._epoch or self.epoch_in(await self.log.bounds(self.topic))

    def epoch_in(self, bounds: Bounds) -> str:
        """The topic's epoch in this epoch of the log: positions of other topics have others."""
        name = f"{bounds.epoch} {self.topic}"
        return blake2s(name.encode(), digest_size=8).hexdigest()

    async def revision(self) -> Bounds | None:
        """As ``Source.revision``. Records never change, so equal bounds mean equal pages."""
        return None if self._bounds is None else await self._bounds.ask()

    def deliver(self, records: Sequence[Record]) -> None:
        """As Follower."""
        if self._sink is not None:
            changes = [_change(record) for record in records]
            self._sink.deliver(changes, place_of(records[-1]))

    def reset(self, reason: ResetReason, bounds: Bounds) -> None:
        """As Follower."""
        self._epoch = self.epoch_in(bounds)
        _log.warning("%s starts anew: %s", self.name, reason)
        if self._sink is not None:
            self._sink.reset(reason, _end_of(bounds))


_origins: WeakKeyDictionary[EventLog, WeakValueDictionary[Hashable, Any]] = WeakKeyDictionary()
_O = TypeVar("_O", bound=TopicOrigin)


def shared_origin(log: EventLog, name: Hashable, make: Callable[[], _O]) -> _O:
    """The log's one origin with this name. It is forgotten once nothing uses it."""
    origins = _origins.setdefault(log, WeakValueDictionary())
    origin: _O | None = origins.get(name)
    if origin is None:
        origin = origins[name] = make()
    return origin


class Topic(Source):
    """A feed's source: all events of one topic. Made by ``log.topic(name)``."""

    origin: TopicOrigin

    def __init__(self, log: EventLog, name: str) -> None:
        check_topic(name)
        self.origin = shared_origin(log, name, lambda: TopicOrigin(log, name))

    async def page(
        self, limit: int, *, after: Place | None = None, before: Place | None = None
    ) -> Page:
        if after is not None:
            since = _topic_place(after)
            records, bounds = await self._newer(since, limit + 1)
            shown, has_more = records[:limit], len(records) > limit
            start = TopicPlace(since.offset, since.tag, past=True)
            end = place_of(shown[-1]) if has_more else _end_of(bounds)
        elif before is not None:
            start = _topic_place(before)
            below = start.offset.next() if start.past else start.offset
            records, bounds = await self._newest(limit + 1, below)
            _check_bounds(start, bounds)
            shown, has_more = records[-limit:], len(records) > limit
            end = place_of(shown[-1]) if shown else TopicPlace.of(bounds.earliest, "")
        else:
            records, bounds = await self._newest(limit + 1, None)
            shown, has_more = records[-limit:], len(records) > limit
            start = end = _end_of(bounds)
        if shown:
            start = place_of(shown[0])
        epoch = self.origin.epoch_in(bounds)
        return Page([self._change(one) for one in shown], start, end, has_more, epoch)

    async def _newer(self, since: TopicPlace, limit: int) -> tuple[Sequence[Record], Bounds]:
        """The next items after a place, at least ``limit`` if there are; and the bounds."""
        run = await self.origin.log.read(self.origin.topic, since.offset, limit)
        self._check(since, run)
        return run.records, run.bounds

    async def _newest(self, limit: int, below: Offset | None) -> tuple[Sequence[Record], Bounds]:
        """The newest items, below an offset, oldest first; and the bounds."""
        run = await self.origin.log.latest(self.origin.topic, limit, below)
        return run.records, run.bounds

    def _change(self, record: Record) -> Change:
        return _change(record)

    def place(self, record: Record) -> TopicPlace:
        """The place just after a record of this topic. Its text is for ``locate``."""
        return place_of(record)

    def _check(self, place: TopicPlace, run: Run) -> None:
        """Raises PositionError unless a read after the place continues just there."""
        _check_bounds(place, run.bounds)
        found = None if run.place is None else _tag(run.place)
        if run.bounds.loss(place.offset, place.tag, found) is not None:
            raise PositionError(str(place), "unknown", "another event stands there, or none")

    async def revision(self) -> Hashable | None:
        return await self.origin.revision()

    async def locate(self, epoch: str, place: str) -> TopicPlace:
        try:
            found = TopicPlace.parse(place)
        except UsageError as error:
            raise PositionError(place, "unknown", str(error)) from error
        run = await self.origin.log.read(self.origin.topic, found.offset, 1)
        if epoch != self.origin.epoch_in(run.bounds):
            raise PositionError(
                place, "unknown", "it is of another topic, or another life of the event log"
            )
        # An offset of another engine has another number of parts; only START is one on all.
        if len(found.offset) != len(run.bounds.latest) and found.offset != START:
            raise PositionError(place, "unknown")
        self._check(found, run)
        return found


def _topic_place(place: Place) -> TopicPlace:
    if not isinstance(place, TopicPlace):
        raise UsageError(f"{place!r} is not a place in a topic")
    return place


def _check_bounds(place: TopicPlace, bounds: Bounds) -> None:
    """Raises PositionError unless the place is within the bounds."""
    if place.offset > bounds.latest:
        raise PositionError(str(place), "unknown", "it lies in the future")
    if place.offset < bounds.earliest:
        raise PositionError(str(place), "expired")
