"""A feed: its names, and how a page or a change becomes bytes, the same for both halves."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from headwater.errors import (
    DeclarationError,
    EncodingError,
    FeedTooLargeError,
    PositionError,
    ResetReason,
    UnfitItemError,
)
from headwater.feeds._checks import check_count, check_kind
from headwater.feeds._envelope import around, member_of
from headwater.feeds._position import Position, fingerprint
from headwater.feeds._read_size import ReadSize
from headwater.feeds._shared_calls import is_cancelled
from headwater.feeds._source import Change, Page, Place, Source
from headwater.feeds._trouble import LONGEST_RETRY, Troubles
from headwater.protocol import frame, to_json

DEFAULT_LIMIT = 20
MAX_LIMIT = 100

# Items of a feed with ``limit="all"``, which each new client is sent.
MAX_ITEMS = 10_000

Limit = int | Literal["all"]

# Makes items of rows, one for each and in their order.
ItemFunction = Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]

# Rows that the function is given at once, and seconds that it may take.
_MOST_ROWS = 500
_FUNCTION_TIMEOUT = 30.0

OnInvalid = Literal["hold", "skip"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_OWN_EVENTS = frozenset({"snapshot", "reset", "error", "heartbeat", "open"})
_NOT_FRAMED: tuple[str, Any] = ("", None)
_OWN_FIELDS = frozenset({"start", "position", "has_more", "removed"})


@dataclass(slots=True, eq=False)
class Frame:
    """One framed event of a feed. Never changed.

    Attributes:
        data: the bytes, shared by all streams.
        place: the place that the event's id names, or None if a client may not resume from it. Of
            several events that belong together only the last has a place.
        left: the moment at which the item left a time window, for a removal of that kind.
        shown_until: of a removal for a change that came when its item had left the window: a page
            that was read before this moment had the change, and showed the item.
    """

    data: bytes
    place: Place | None
    left: datetime | None = None
    shown_until: datetime | None = None


def encode_plain(item: Any) -> bytes:
    """An item without a model as JSON."""
    return to_json(item).encode()


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """One feed, as both halves of its pair serve it.

    Attributes:
        name: its positions are bound to it; a feed refuses those of another one.
        collection: the field of a page that holds the items.
        event: the name of the event of one item; its removal is ``<event>_removed``.
        encode: an item as JSON, without line breaks.
        encode_key: the key of an item that left as JSON, with the names that items have.
        function: makes items of a batch of rows; ``encode`` then encodes what it returns.
        envelope: a JSON object around each page, item and removal, with ``...`` in the place of
            these: ``{"success": True, "data": ...}``.
        limit: items of a page when the client names no limit, 1 to 100. ``"all"``: a new client is
            sent all items: a page of 100, then the rest one by one.
        max_items: with ``"all"``, the most that there may be; with more a new client gets an error.
        retry: milliseconds that clients wait before they reconnect.
        on_invalid: what becomes of an item that does not fit its model: the feed waits there
            (``"hold"``), or leaves it out (``"skip"``).
        troubles: the items that could not be shown.
        read_size: how many items a read asks for.
    """

    name: str
    collection: str = "items"
    event: str = "item"
    encode: Callable[[Any], bytes] = encode_plain
    limit: Limit = DEFAULT_LIMIT
    retry: int = 2000
    on_invalid: OnInvalid = "hold"
    max_items: int = MAX_ITEMS
    encode_key: Callable[[Any], bytes] = encode_plain
    function: ItemFunction | None = None
    envelope: Mapping[str, Any] | None = None
    troubles: Troubles = field(init=False)
    read_size: ReadSize = field(init=False, default_factory=ReadSize)
    tag: str = field(init=False)
    # What stands before and after the JSON in the envelope.
    _around: tuple[bytes, bytes] = field(init=False, repr=False)
    # By epoch: the first bytes of an item's block and of a removal's, up to the place.
    _heads: dict[str, tuple[bytes, bytes]] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_kind(f"feed {self.name!r}: name={self.name!r}", self.name, str, "a text")
        for name, taken in (("event", _OWN_EVENTS), ("collection", _OWN_FIELDS)):
            value = getattr(self, name)
            if not isinstance(value, str) or not _NAME.fullmatch(value) or value in taken:
                raise DeclarationError(
                    f"feed {self.name!r}: {name}={value!r} must be letters, digits, _ . or -, and "
                    f"none of {', '.join(sorted(taken))}"
                )
        whole = isinstance(self.limit, int) and not isinstance(self.limit, bool)
        if self.limit != "all" and not (whole and 1 <= self.limit <= MAX_LIMIT):
            raise DeclarationError(
                f"feed {self.name!r}: limit={self.limit!r} must be 1 to {MAX_LIMIT}, or 'all'"
            )
        if not isinstance(self.max_items, int) or self.max_items < MAX_LIMIT:
            raise DeclarationError(
                f"feed {self.name!r}: max_items={self.max_items!r} must be at least {MAX_LIMIT}, "
                "the items of one page"
            )
        check_count(f"feed {self.name!r}: retry={self.retry!r}", self.retry, 0, ", in milliseconds")
        if self.on_invalid not in ("hold", "skip"):
            raise DeclarationError(
                f"feed {self.name!r}: on_invalid={self.on_invalid!r} must be 'hold' or 'skip'"
            )
        object.__setattr__(self, "_around", around(self.name, self.envelope))
        object.__setattr__(self, "tag", fingerprint(self.name))
        object.__setattr__(self, "troubles", Troubles(self.name))

    @property
    def whole(self) -> bool:
        """Whether a new client is sent all items."""
        return self.limit == "all"

    @property
    def member(self) -> str | None:
        """The member of the envelope that has the content; None without an envelope."""
        return None if self.envelope is None else member_of(self.envelope)

    @property
    def page_limit(self) -> int:
        """Items of a page when the client names no limit."""
        return MAX_LIMIT if self.limit == "all" else self.limit

    def nothing(self, source: Source) -> Place | None:
        """Where a new client begins that is sent all items; None: with the newest ones."""
        return source.nothing() if self.whole else None

    async def check_size(self, source: Source) -> None:
        """Raises FeedTooLargeError if a new client cannot be sent all."""
        if await source.exceeds(self.max_items):
            raise FeedTooLargeError(self.name, self.max_items)

    def position(self, epoch: str, place: Place) -> str:
        """The token of a place."""
        return f"1.{self.tag}.{epoch}.{place}"

    def parse(self, token: str) -> Position:
        """Read a client's token. Raises PositionError (``unknown``) unless it is this feed's."""
        position = Position.parse(token)
        if position.feed != self.tag:
            raise PositionError(token, "unknown", "it is a position of another feed")
        return position

    def shown(self, change: Change) -> Change | None:
        """The change as this feed shows it. Raises UnfitItemError where the feed waits.

        With ``on_invalid="skip"`` an item that does not fit is left out: None, or a removal of its
        key, as a client may have an earlier version.
        """
        if change.removed:
            return change
        try:
            self.data(change)
        except UnfitItemError:
            if self.on_invalid == "hold":
                raise
            if change.key is None:
                return None
            return Change(change.place, change.values, removed=True, key=change.key)
        return change

    def shown_page(self, page: Page, *, removals: bool) -> tuple[Page, int]:
        """A page as this feed shows it, and how many items were left out.

        Raises UnfitItemError. ``removals``: the page may have removals.
        """
        if self.on_invalid == "hold":
            for change in page.changes:
                self.shown(change)
            return page, 0
        every = [(change, self.shown(change)) for change in page.changes]
        kept = [one for was, one in every if one is not None and (removals or one is was)]
        left_out = sum(one is not was for was, one in every)
        return (page if not left_out else replace(page, changes=kept)), left_out

    async def prepare(self, changes: Sequence[Change]) -> None:
        """Let the feed's function make the items of these changes, those that it has not made yet.

        Raises UnfitItemError if it fails as a whole: such a feed waits, also with ``"skip"``, since
        no item of the batch is known to be wrong.
        """
        if self.function is None:
            return
        new = [
            change
            for change in changes
            if not change.removed and not (change.made and self in change.made)
        ]
        for at in range(0, len(new), _MOST_ROWS):
            rows = new[at : at + _MOST_ROWS]
            try:
                async with asyncio.timeout(_FUNCTION_TIMEOUT):
                    items = await self.function([change.item for change in rows])
                if len(items) != len(rows):
                    raise EncodingError(
                        f"the item function returned {len(items)} items for {len(rows)} rows"
                    )
            except (Exception, asyncio.CancelledError) as error:
                if is_cancelled():
                    raise
                raise self._unfit(rows[0], error, skipped=False) from error
            for change, item in zip(rows, items, strict=True):
                change.made = {**(change.made or {}), self: item}

    def data(self, change: Change) -> bytes:
        """A change's JSON, made once for all streams of this feed. Raises UnfitItemError."""
        data = change.encoded.get(self)
        if data is None:
            data = change.encoded[self] = self._encoded(change)
        return data

    def frame(self, change: Change, epoch: str) -> Frame:
        """A change's event, made once for all channels of this feed."""
        frame: Frame
        known, frame = change.framed.get(self, _NOT_FRAMED)
        if known != epoch:
            frame = Frame(self._event(change, epoch), change.place)
            change.framed[self] = epoch, frame
        return frame

    def frame_at(
        self,
        change: Change,
        epoch: str,
        place: Place | None,
        *,
        shown_until: datetime | None = None,
    ) -> Frame:
        """A change's event with another place than its own, for feeds with a window."""
        data = self._framed(change, epoch, place, self.data(change))
        return Frame(data, place, shown_until=shown_until)

    def replaced(self, frame: bytes, epoch: str, place: Place, other: Place) -> bytes:
        """A frame whose id names ``place``, with an id that names another place instead."""
        line = f"\nid: {self.position(epoch, place)}\n".encode()
        return frame.replace(line, f"\nid: {self.position(epoch, other)}\n".encode(), 1)

    def moved(self, epoch: str, place: Place) -> bytes:
        """A block with nothing but an id: it moves a client's position and dispatches no event."""
        return b"id: %b\n\n" % self.position(epoch, place).encode()

    def removal(self, key: Mapping[str, Any], token: str | None) -> bytes:
        """The event for an item that left."""
        return frame(f"{self.event}_removed", token, self._wrapped(self.encode_key(key)))

    def body(self, page: Page, *, removals: bool = False) -> bytes:
        """A page as JSON: the body of the REST half and the data of the ``snapshot`` event.

        With ``removals`` the keys of items that left are listed in ``removed``, which a client
        applies before the items. It is for pages of a keyed feed that were read with ``after``.
        """
        items = b",".join(self.data(change) for change in page.changes if not change.removed)
        gone = b""
        if removals:
            keys = b",".join(self.data(change) for change in page.changes if change.removed)
            gone = b',"removed":[%b]' % keys
        return self._wrapped(
            b'{%b:[%b]%b,"start":"%b","position":"%b","has_more":%b}'
            % (
                json.dumps(self.collection).encode(),
                items,
                gone,
                self.position(page.epoch, page.start).encode(),
                self.position(page.epoch, page.end).encode(),
                b"true" if page.has_more else b"false",
            )
        )

    def snapshot(self, page: Page) -> bytes:
        """The ``snapshot`` event."""
        return frame("snapshot", self.position(page.epoch, page.end), self.body(page))

    def reset(self, reason: ResetReason) -> bytes:
        """The ``reset`` event. It has no id: the snapshot that follows it has."""
        return frame("reset", None, b'{"reason":"%b"}' % reason.encode())

    def page_frames(self, page: Page) -> bytes:
        """The changes of a page as events, one after another."""
        return b"".join([self._event(change, page.epoch) for change in page.changes])

    @property
    def opening(self) -> bytes:
        """The first bytes of every stream."""
        return b"retry: %d\n\n" % self.retry

    def _encoded(self, change: Change) -> bytes:
        if change.removed:
            return self.encode_key(change.key or {})
        try:
            made = change.made if self.function is not None else None
            data = self.encode(change.item if made is None else made[self])
        except Exception as error:
            raise self._unfit(change, error, skipped=self.on_invalid == "skip") from None
        if self.troubles.known:
            self.troubles.over(change.name)
        return data

    def _unfit(self, change: Change, error: BaseException, *, skipped: bool) -> UnfitItemError:
        # An error that is not ours may say what the values are.
        problem = str(error) if isinstance(error, EncodingError) else type(error).__name__
        age = self.troubles.met(change.name, problem, skipped=skipped)
        return UnfitItemError(change.name, problem, min(max(self.retry, age), LONGEST_RETRY))

    def _event(self, change: Change, epoch: str) -> bytes:
        # The JSON is in the event, so it is not kept beside it.
        data = change.encoded.get(self) or self._encoded(change)
        return self._framed(change, epoch, change.place, data)

    def _framed(self, change: Change, epoch: str, place: Place | None, data: bytes) -> bytes:
        """The same bytes as ``frame``; what all events of an epoch begin with is made once."""
        text, data = "" if place is None else str(place), self._wrapped(data)
        if place is None or not text.isprintable() or b"\n" in data or b"\r" in data:
            event = f"{self.event}_removed" if change.removed else self.event
            return frame(event, None if place is None else self.position(epoch, place), data)
        heads = self._heads.get(epoch) or self._make_heads(epoch)
        return b"".join((heads[change.removed], text.encode(), b"\ndata: ", data, b"\n\n"))

    def _wrapped(self, data: bytes) -> bytes:
        """JSON in the envelope."""
        before, after = self._around
        return b"".join((before, data, after)) if before else data

    def _make_heads(self, epoch: str) -> tuple[bytes, bytes]:
        token = f"1.{self.tag}.{epoch}."
        end = len(b"\ndata: \n\n")
        item, removal = (
            frame(event, token, b"") for event in (self.event, f"{self.event}_removed")
        )
        self._heads.clear()  # an old epoch does not come back
        heads = self._heads[epoch] = item[:-end], removal[:-end]
        return heads
