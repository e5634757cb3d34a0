"""A request for a feed, and one that waits for an item (long-poll)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headwater.feeds.source import Page, Place, Source
from headwater.web.incoming import Incoming
from headwater.web.live import Live
from headwater.web.paging import Paging
from headwater.web.problems import Problem
from headwater.web.responders import Call, Headers
from headwater.web.rights import Holder
from headwater.web.stream_limits import LimitReachedError, StreamPlace, limit_retry

__all__ = ["Asked", "LongPoll"]


@dataclass(slots=True, eq=False)
class Asked:
    """One request for a feed, once its source is known and its dependencies are closed.

    Attributes:
        headers: what guards and dependencies have set, lower-case names.
        take: takes a place for a stream or a poll. Raises LimitReachedError.
        hold: lets a response go on only while the right of the request holds, with a place.
    """

    live: Live
    call: Call
    source: Source
    paging: Paging
    headers: Headers
    take: Callable[[], StreamPlace]
    hold: Callable[[Holder, StreamPlace], None]


class LongPoll:
    """A REST request that waits for an item. It holds a right, as a stream does.

    Attributes:
        ended: the wait is over.
        lease: the right that it holds.
    """

    def __init__(self, asked: Asked) -> None:
        self.ended = False
        self.lease: Any = None
        self._asked = asked
        self._refused: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()

    async def wait(self, place: Place) -> Page | None:
        """The page after ``place``, once it holds something or the time is over.

        None when the client has left. Raises Problem when the right was lost, and above a limit.
        """
        asked = self._asked
        live = asked.live
        counters = live.hub.streams.counters
        try:
            place_taken = asked.take()
        except LimitReachedError as error:
            counters.limited += 1
            again = str(limit_retry() // 1000)
            raise Problem(429, f"{error}.".capitalize(), headers={"Retry-After": again}) from error
        counters.waiting += 1
        asked.hold(self, place_taken)
        incoming = Incoming(asked.call.receive)
        paging = asked.paging
        waiting = asyncio.ensure_future(
            live.hub.wait(asked.source, place, paging.wait, paging.limit)
        )
        leaving = asyncio.ensure_future(incoming.until_gone())
        ends: set[asyncio.Future[Any]] = {waiting, leaving, self._refused}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._refused.done():
                raise _refusal(*self._refused.result())
            return await waiting if waiting.done() else None
        finally:
            self.ended = True
            counters.waiting -= 1
            for each in (waiting, leaving):
                each.cancel()
            await asyncio.wait({waiting, leaving})
            if self.lease is not None:
                self.lease.release(self)

    def fail(self, status: int) -> None:
        """The right was lost."""
        self._end(status, 0)

    def dismiss(self, retry: int) -> None:
        """The caller may go on with other items: the next request gets them."""
        self._end(503, retry)

    def _end(self, status: int, retry: int) -> None:
        if not self._refused.done():
            self._refused.set_result((status, retry))


def _refusal(status: int, retry: int) -> Problem:
    sentence = {
        401: "The session has ended: sign in again.",
        403: "The right to this feed was lost.",
    }.get(status, "What this caller may see has changed: ask again.")
    return Problem(
        status, sentence, headers={"Retry-After": str(-(-retry // 1000))} if retry else None
    )
