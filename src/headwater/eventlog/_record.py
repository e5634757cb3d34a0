"""The values of an event log, and the checks that all engines share.

Bad input is refused before an engine sees it, so that every engine refuses the same.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from headwater.errors import ResetReason, UsageError

_log = logging.getLogger(__name__)

DAWN = datetime(1970, 1, 1, tzinfo=UTC)

# Redis, NATS and most proxies carry 1 MiB without tuning; a bigger event belongs in a file store.
MAX_EVENT_BYTES = 1024 * 1024
# The most records that a read asks an engine for: some count in 32 bits.
MAX_LIMIT = 2**31 - 2

# Characters that need no escape in a URL's path, a Redis key or a log line.
TOPIC = re.compile(r"[0-9A-Za-z._:/@-]{1,200}")
# Printable ASCII: a key travels in a header on some engines.
KEY = re.compile(r"[!-~]{1,200}")
# As ``json.dumps`` and ``json.loads`` do it, but those make an encoder at each call.
_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode
# The first events of such a topic are needed to understand the rest, so general trims leave it out.
WHOLE = "run:"
# Objects and lists in each other. Python's JSON fails at about a thousand, less the depth of the
# caller's stack. So one caller could store what another cannot read.
MAX_DEPTH = 100
# At most 20 digits: engines count in 64 bits.
_OFFSET = re.compile(r"(?:0|[1-9][0-9]{0,19})(?:-(?:0|[1-9][0-9]{0,19}))?")


class Offset(tuple[int, ...]):
    """A record's place in its topic: one number, or two as in ``1718000000000-0``.

    Offsets of one topic are totally ordered and compare with ``<``. They may have gaps; only the
    engine knows what they count. ``str()`` gives the text, ``Offset.parse`` reads it.
    """

    __slots__ = ()

    @classmethod
    def of(cls, *numbers: int) -> Offset:
        """``Offset.of(7)``, ``Offset.of(1718000000000, 0)``."""
        return cls(numbers)

    @classmethod
    def parse(cls, text: str) -> Offset:
        """Read what ``str()`` gave. Raises UsageError for anything else, also for ``007``."""
        if not _OFFSET.fullmatch(text):
            raise UsageError(f"{text[:80]!a} is not the text of an offset")
        return cls(int(number) for number in text.split("-"))

    def previous(self) -> Offset:
        """The highest offset below this one; ``START`` has none below."""
        *higher, last = self
        if last > 0:
            return Offset((*higher, last - 1))
        return Offset((higher[0] - 1, 2**64 - 1)) if higher and higher[0] > 0 else START

    def next(self) -> Offset:
        """The lowest offset above this one. There need not be a record at it."""
        return Offset((*self[:-1], self[-1] + 1))

    def __str__(self) -> str:
        return "-".join(map(str, self))

    def __repr__(self) -> str:
        return f"Offset({self})"


START = Offset.of(0)
"""Before the first record, on every engine."""


@dataclass(frozen=True, slots=True)
class Record:
    """One stored event.

    Attributes:
        topic: the topic's name.
        offset: its place in the topic.
        at: when it was appended, in UTC, by the clock of the process that appended it. On Redis it
            is the server's clock, to the millisecond.
        data: the event, a JSON object.
        key: the idempotency key of its append, or None.
        mark: letters and digits. They differ from the mark of any other record that ever had this
            offset, as before a restore.
    """

    topic: str
    offset: Offset
    at: datetime
    data: Mapping[str, Any]
    key: str | None = None
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The range of records that a topic keeps.

    An offset can be resumed at if, and only if, ``earliest <= offset <= latest``.

    Attributes:
        epoch: the epoch of the log's storage, 1 to 40 letters and digits.
        earliest: the highest offset ever trimmed, or ``START``. A read after it gives all records
            that are kept.
        latest: the highest offset ever given out, also if it is no longer kept, or ``START``.
        mark: the mark of the record at ``latest``; empty if none is kept there.
    """

    epoch: str
    earliest: Offset
    latest: Offset
    mark: str = ""

    def loss(self, last: Offset, mark: str, found: str | None) -> ResetReason | None:
        """Why a reader that has all records up to ``last`` cannot continue; None if it can.

        Arguments:
            last: the offset at which it stopped.
            mark: the mark of the record that was there; empty if there was none.
            found: the mark of the record that is there now; None if there is none.
        """
        if last > self.latest:
            return "unknown"
        if last < self.earliest:
            return "expired"
        return None if last in {START, self.earliest} or found == mark else "unknown"


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive records of one topic, oldest first, with the topic's bounds at that moment.

    Attributes:
        records: the records. There are fewer than the limit only if the topic ends.
        bounds: the topic's bounds.
        place: for ``read``, the mark of the record at the offset ``after``; None if there is none.
            For ``latest`` it is None.
    """

    records: Sequence[Record]
    bounds: Bounds
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of a topic is kept; None: no limit of that kind. Raises UsageError.

    Attributes:
        max_age: the greatest age, by the records' ``at``.
        max_count: the greatest number of records.
        max_bytes: the most bytes of the events' JSON in UTF-8.
        before: records below this offset are removed.
    """

    max_age: timedelta | None = None
    max_count: int | None = None
    max_bytes: int | None = None
    before: Offset | None = None

    def __post_init__(self) -> None:
        if self.max_age is not None and not (
            isinstance(self.max_age, timedelta) and self.max_age >= timedelta()
        ):
            raise UsageError(f"max_age={self.max_age}: give a timedelta of 0 or more")
        for name in ("max_count", "max_bytes"):
            limit = getattr(self, name)
            if limit is not None and not (_is_whole(limit) and 0 <= limit < 2**63):
                raise UsageError(f"{name}={limit}: give a whole number from 0 to 2**63 - 1")
        if self.before is not None:
            check_offset(self.before)

    def oldest(self, now: datetime) -> datetime:
        """The moment from which on records stay. Only for a retention with ``max_age``."""
        assert self.max_age is not None
        return past(now, self.max_age)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The abilities that not every engine has.

    Attributes:
        durable: records outlive the process that appended them, also after ``kill -9``.
        multi_process: several processes may append to and follow the same log.
        transactional: ``append`` can join the caller's own SQL transaction.
        trim_by_size: ``trim`` takes ``max_bytes``.
        max_batch: the most events that one ``append`` takes.
        keys_kept: how long a key is remembered; None: as long as its records are kept.
    """

    durable: bool
    multi_process: bool
    transactional: bool
    trim_by_size: bool
    max_batch: int = 10_000
    keys_kept: timedelta | None = None


class Event(NamedTuple):
    """An event that passed the checks.

    Attributes:
        text: its JSON, without needless spaces.
        size: bytes of ``text`` in UTF-8.
        data: the decoded ``text``, a copy that the caller cannot change.
    """

    text: str
    size: int
    data: Mapping[str, Any]


def check_topic(topic: str) -> str:
    """The name itself. Raises UsageError."""
    if not isinstance(topic, str) or not TOPIC.fullmatch(topic):
        raise UsageError(
            f"topic {topic!a:.80}: a topic's name has 1 to 200 characters of "
            "0-9 A-Z a-z . _ : / @ -"
        )
    return topic


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def check_offset(offset: Offset) -> Offset:
    """The offset itself. Raises UsageError."""
    numbers = offset if isinstance(offset, tuple) else ()
    if not numbers or not all(_is_whole(one) and one >= 0 for one in numbers):
        raise UsageError(
            f"offset {offset!a:.80}: give the offset of a record or of bounds, Offset.parse(text), "
            "or START"
        )
    return offset


def check_limit(limit: int) -> int:
    """The limit, at least 1. Raises UsageError."""
    if not _is_whole(limit):
        raise UsageError(f"limit {limit!a:.80}: give a whole number")
    return min(max(limit, 1), MAX_LIMIT)


def check_key(key: str | None) -> str | None:
    """The key itself. Raises UsageError."""
    if key is not None and (not isinstance(key, str) or not KEY.fullmatch(key)):
        raise UsageError(
            f"key {key!a:.80}: an idempotency key has 1 to 200 printable ASCII characters, "
            "none of them a space"
        )
    return key


def encode_all(
    data: Mapping[str, Any] | Iterable[Mapping[str, Any]], max_bytes: int, max_batch: int
) -> list[Event]:
    """Check one event or many. Raises UsageError, which names the first that is refused."""
    if isinstance(data, Mapping):
        return [encode(data, max_bytes)]
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise UsageError(f"an event is a JSON object, not {type(data).__name__}")
    events: list[Event] = []
    for index, one in enumerate(data):
        if index >= max_batch:
            raise UsageError(f"one append takes at most {max_batch} events")
        events.append(encode(one, max_bytes, index))
    return events


def encode(
    data: Mapping[str, Any], max_bytes: int = MAX_EVENT_BYTES, index: int | None = None
) -> Event:
    """Check one event, at ``index`` of many, and write it as JSON. Raises UsageError."""
    if not isinstance(data, Mapping):
        raise _not_an_event(index, f"an event is a JSON object, not {type(data).__name__}")
    plain = data if isinstance(data, dict) else dict(data)
    try:
        text = _encode(plain)
        size = len(text) if text.isascii() else len(text.encode())
        too_deep = is_too_deep(text)
        copy: dict[str, Any] = {} if too_deep else _decode(text)
    except UnicodeEncodeError as error:
        raise _not_an_event(index, "a lone surrogate cannot be stored as UTF-8") from error
    except RecursionError as error:
        raise _not_an_event(index, TOO_DEEP) from error
    except (TypeError, ValueError) as error:
        raise _not_an_event(index, f"not JSON: {error}") from error
    if too_deep:
        raise _not_an_event(index, TOO_DEEP)
    if size > max_bytes:
        raise _not_an_event(index, f"{size} bytes of JSON, and at most {max_bytes} are allowed")
    # JSON turns the name 1 into "1" silently, but a reader must get what was appended.
    if copy != plain and (name := _odd_name(plain)) is not None:
        raise _not_an_event(index, f"the names of a JSON object are strings, not {name!r}")
    return Event(text, size, copy)


TOO_DEEP = f"it is nested too deeply: at most {MAX_DEPTH} objects and lists in each other"


def is_too_deep(text: str, most: int = MAX_DEPTH) -> bool:
    """Whether this JSON has more than ``most`` levels. Cheap for JSON of few objects and lists."""
    if text.count("{") + text.count("[") <= most:
        return False
    try:
        level: list[Any] = [_decode(text)]
    except RecursionError:
        return True
    for _ in range(most):
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for each in inner for one in each if isinstance(one, (dict, list))]
        if not level:
            return False
    return True


def _not_an_event(index: int | None, why: str) -> UsageError:
    return UsageError(f"event: {why}" if index is None else f"event {index}: {why}")


def ticks(at: datetime) -> int:
    """Microseconds since 1970 UTC."""
    return (at - DAWN) // timedelta(microseconds=1)


def moment(count: int) -> datetime:
    """The moment of ``ticks``."""
    return DAWN + timedelta(microseconds=count)


def past(now: datetime, age: timedelta) -> datetime:
    """The moment so long before ``now``, but not before 1970."""
    return now - age if age < now - DAWN else DAWN


def mark_of(at: int | None, size: int | None) -> str:
    """The mark of an event with this ``at`` and ``size``; empty for none."""
    return "" if at is None else f"{at:x}x{size:x}"


_foreign = 0


def foreign_entries() -> int:
    """How often this process skipped an entry of a topic, because it holds no event."""
    return _foreign


def event_in(topic: str, offset: object, text: bytes | str | None) -> dict[str, Any] | None:
    """The event that an entry of a topic holds. If it holds none: None, and a line in the log."""
    global _foreign
    try:
        data = _decode(text.decode() if isinstance(text, bytes) else text) if text else None
    except (ValueError, RecursionError):
        data = None
    if isinstance(data, dict):
        return data
    _foreign += 1
    if _foreign & (_foreign - 1) == 0:  # the 1st, 2nd, 4th, 8th …: each read meets them again
        _log.warning(
            "topic %s: skipped the entry at %s, which is no event of the log (%d such so far)",
            topic,
            offset,
            _foreign,
        )
    return None


def _odd_name(value: object) -> object | None:
    """The first name, at any depth, that is no string."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                return repr(name) if name is None else name
            if (found := _odd_name(inner)) is not None:
                return found
    elif isinstance(value, (list, tuple)):
        for inner in value:
            if (found := _odd_name(inner)) is not None:
                return found
    return None
