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

# A page of 100 items of 2.5 KB. It takes the event loop about 5 ms, in which others wait, and a
# hundred clients that take nothing cost 25 megabytes.
PAGE_BYTES = 256 * 1024


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
    asked = feed.read_size.items(limit, most)
    while True:
        page = await source.page(asked, after=after, before=before)
        await feed.prepare(page.changes)
        newest_first = after is None
        count = _fitting(feed, reversed(page.changes) if newest_first else page.changes, most)
        if count < len(page.changes):
            if not newest_first:
                return _cut_to(page, count)
            # Only the source knows where the page before a shorter one ends.
            asked = limit = count
        elif asked < limit and page.has_more:
            asked = limit  # the items are shorter than those of the last page
        else:
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


def _cut_to(page: Page, count: int) -> Page:
    """The first ``count`` changes, or as many more as must stay together."""
    for most in range(count, len(page.changes)):
        if (found := _cut(page, most)) is not None:
            return found
    return page


def _fitting(feed: Feed, changes: Iterable[Change], most: int) -> int:
    """How many of the changes fit, at least one. One that cannot be shown weighs nothing."""
    count = size = 0
    for change in changes:
        try:
            length = len(feed.data(change))
        except UnfitItemError:
            length = 0
        if size + length > most and count:
            break
        size += length
        count += 1
    feed.read_size.learn(count, size)
    return count
