"""Reads pages of a channel's source, as the bytes that its streams are sent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from headwater.delivery.reader import OriginReader
from headwater.errors import UnfitItemError
from headwater.feeds.feed import Feed
from headwater.feeds.source import Change, Page, Place, Source

__all__ = ["READ_LIMIT", "ReadChannel", "Reading", "read_after", "read_newest"]

# Rows of one read while a stream catches up: few enough that memory stays flat and the first ones
# leave soon, enough that a gap of thousands is not thousands of statements.
READ_LIMIT = 500


class ReadChannel(Protocol):
    """What a read needs of a channel."""

    feed: Feed
    source: Source
    reader: OriginReader
    life: int


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


async def read_newest(channel: ReadChannel, limit: int, before: Place | None) -> Reading:
    """As ``Channel.read_newest``."""
    life, feed = channel.life, channel.feed
    if before is not None:
        page = await channel.source.page(limit, before=before)
    else:
        page = await feed.first_page(channel.source, limit)
        if feed.whole and page.has_more:
            await feed.check_size(channel.source)
    page = _shown(channel, page, removals=False)
    # A walk through all items is told of what leaves the window where it comes to it.
    until = None if feed.whole and page.has_more else page.as_of
    return Reading(feed.snapshot(page), page.end, life, page.epoch, removed_until=until)


async def read_after(channel: ReadChannel, place: Place, holds: Place) -> Reading:
    """As ``Channel.read_after``."""
    life, page = channel.life, await channel.source.page(READ_LIMIT, after=place)
    page = _shown_after(channel, page)
    data, retired = channel.feed.page_frames(page), channel.reader.retired
    places = (each.place for each in reversed(page.changes) if each.place is not None)
    last = next(places, holds)
    moved = retired is not None and not last.includes(retired)
    if moved:
        # The position that the client would hold is about to expire.
        data += channel.feed.moved(page.epoch, page.end)
    return Reading(
        data,
        page.end,
        life,
        page.epoch,
        len(page.changes),
        None if moved else last,
        # A page that is not the last one has removals only up to its own end.
        None if page.has_more else page.as_of,
    )


def _shown(channel: ReadChannel, page: Page, *, removals: bool) -> Page:
    page, left_out = channel.feed.shown_page(page, removals=removals)
    channel.reader.counters.invalid_skipped += left_out
    return page


def _shown_after(channel: ReadChannel, page: Page) -> Page:
    """The page as far as it can be shown. Raises UnfitItemError if its first item cannot."""
    try:
        return _shown(channel, page, removals=True)
    except UnfitItemError:
        fit: list[Change] = []
        for change in page.changes:
            try:
                channel.feed.shown(change)
            except UnfitItemError:
                break
            fit.append(change)
        # A client may resume only from a place; changes without one belong together.
        while fit and fit[-1].place is None:
            fit.pop()
        end = fit[-1].place if fit else None
        if end is None:
            raise
        return replace(page, changes=fit, end=end, has_more=True)
