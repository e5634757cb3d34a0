"""Reads pages of a channel's source, as the bytes that its streams are sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial

from headwater.delivery._channel import Channel
from headwater.errors import UnfitItemError
from headwater.feeds._page_size import before_unfit, read_page
from headwater.feeds._source import Page, Place

# Rows of one read while a stream catches up, or fewer if they are long. It is small, so that memory
# stays low and the first rows are sent soon. It is large enough that a gap of thousands of rows
# needs few statements.
READ_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of one read of the source, as bytes for a client.

    Attributes:
        data: the framed events.
        end: the place of a client that was sent them.
        life: the channel's life when the read began.
        epoch: the storage's epoch.
        frames: the number of items and removals.
        holds: the place that the client's last id then names, if it is not ``end``.
        removed_until: the data has the removals of items that left the time window up to this time.
    """

    data: bytes
    end: Place
    life: int
    epoch: str
    frames: int = 0
    holds: Place | None = None
    removed_until: datetime | None = None


async def read_newest(channel: Channel, limit: int, before: Place | None = None) -> Reading:
    """A ``snapshot`` of the newest items, or of the page that ends before a place.

    Of a feed with ``limit="all"`` it has the first items, and the others follow it. Raises
    FeedTooLargeError if there are too many. Streams that ask for the same while it is read share
    it.
    """
    name = (channel, channel.life, limit, None if before is None else str(before))
    return await channel.reader.calls.join(name, partial(_newest, channel, limit, before))


async def _newest(channel: Channel, limit: int, before: Place | None) -> Reading:
    life, feed, source = channel.life, channel.feed, channel.source
    nothing = feed.nothing(source) if before is None else None
    page = await read_page(feed, source, limit, channel.page_bytes, after=nothing, before=before)
    if nothing is not None and page.has_more:
        await feed.check_size(source)
    page = _shown(channel, page, removals=False)
    # If all items are sent in several pages, removals from the window follow with later pages.
    until = None if nothing is not None and page.has_more else page.as_of
    return Reading(feed.snapshot(page), page.end, life, page.epoch, removed_until=until)


async def read_after(channel: Channel, place: Place, holds: Place) -> Reading:
    """The changes after ``place``, for a client whose last id names the place ``holds``.

    Streams that ask for the same while it is read share it.
    """
    name = (channel, channel.life, str(place), str(holds))
    return await channel.reader.calls.join(name, partial(_after, channel, place, holds))


async def _after(channel: Channel, place: Place, holds: Place) -> Reading:
    life, feed = channel.life, channel.feed
    page = await read_page(feed, channel.source, READ_LIMIT, channel.page_bytes, after=place)
    page = _shown_after(channel, page)
    data, retired = feed.page_frames(page), channel.reader.retired
    places = (each.place for each in reversed(page.changes) if each.place is not None)
    last = next(places, holds)
    moved = retired is not None and not last.includes(retired)
    if moved:
        # The position that the client would hold is about to expire.
        data += feed.moved(page.epoch, page.end)
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


def _shown(channel: Channel, page: Page, *, removals: bool) -> Page:
    page, left_out = channel.feed.shown_page(page, removals=removals)
    channel.reader.counters.invalid_skipped += left_out
    return page


def _shown_after(channel: Channel, page: Page) -> Page:
    """The page as far as it can be shown. Raises UnfitItemError if its first item cannot."""
    try:
        return _shown(channel, page, removals=True)
    except UnfitItemError:
        found = before_unfit(channel.feed, page)
        if found is None:
            raise
        return found
