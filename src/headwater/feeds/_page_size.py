"""The bytes of a page: a page of long items has fewer of them, and says that there are more.

A page stands in memory until its client has taken it, so its number of items is no bound for that.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from headwater.errors import UnfitItemError
from headwater.feeds._feed import Feed
from headwater.feeds._source import Change, Page, Place, Source

__all__ = ["PAGE_BYTES", "before_unfit", "read_page"]

# A page of 100 items of 10 KB. A browser on a slow line takes it in seconds, and a hundred clients
# that take nothing cost a hundred megabytes.
PAGE_BYTES = 1024 * 1024


async def read_page(
    feed: Feed,
    source: Source,
    limit: int,
    most: int,
    *,
    after: Place | None = None,
    before: Place | None = None,
) -> Page:
    """As ``Source.page``, with at most ``most`` bytes of JSON, or with one item that is longer.

    Changes that a client may only get together, such as those of a poll, stay together.
    """
    page = await source.page(limit, after=after, before=before)
    await feed.prepare(page.changes)
    if after is not None:
        return _first_of(feed, page, most)
    # Only the source knows where the page before a shorter one ends.
    while (count := _fitting(feed, reversed(page.changes), most)) < len(page.changes):
        page = await source.page(count, before=before)
        await feed.prepare(page.changes)
    return page


def before_unfit(feed: Feed, page: Page) -> Page | None:
    """The changes before the first one that cannot be shown, of a page asked for with ``after``.

    None where a client could not resume from there.
    """
    count = 0
    with suppress(UnfitItemError):
        for change in page.changes:
            feed.shown(change)
            count += 1
    return _cut(page, count)


def _cut(page: Page, count: int) -> Page | None:
    """The first ``count`` changes or fewer, up to where a client may resume."""
    changes = page.changes
    while count and changes[count - 1].place is None:
        count -= 1
    end = changes[count - 1].place if count else None
    return None if end is None else replace(page, changes=changes[:count], end=end, has_more=True)


def _first_of(feed: Feed, page: Page, most: int) -> Page:
    changes = page.changes
    count = _fitting(feed, changes, most)
    if count == len(changes):
        return page
    found = _cut(page, count)
    while found is None and count < len(changes):
        count += 1
        found = _cut(page, count)
    return page if found is None or count == len(changes) else found


def _fitting(feed: Feed, changes: Iterable[Change], most: int) -> int:
    """How many of the changes fit, at least one. One that cannot be shown weighs nothing."""
    count = size = 0
    for change in changes:
        with suppress(UnfitItemError):
            size += len(feed.data(change))
        if size > most and count:
            break
        count += 1
    return count
