"""A REST request that waits for an item. It holds a right and a place, as a stream does."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

from headwater.delivery._polls import Read
from headwater.feeds._source import Source
from headwater.web._incoming import Incoming
from headwater.web._responders import Admission, take_place
from headwater.web._stream_limits import LimitReachedError
from headwater.web.problems import Problem, refused_problem


class WaitingRequest:
    """One request that waits.

    Attributes:
        ended: the wait is over.
        lease: the right that it holds.
    """

    def __init__(self, admission: Admission) -> None:
        self.ended = False
        self.lease: Any = None
        self._admission = admission
        self._refused: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()

    async def wait(self, name: Hashable, source: Source, read: Read, seconds: float) -> Any:
        """The answer of ``read``, once it holds something or the time is over.

        None when the client has left. Raises Problem when the right was lost, and above a limit.
        ``name`` is equal for requests that wait for the same and want the same answer.
        """
        call = self._admission.call
        live = call.live
        try:
            place = take_place(call)
        except LimitReachedError as error:
            raise refused_problem(error, 429) from error
        live.counters.waiting += 1
        self._admission.hold(self, place)
        shared, answer = live.hub.polls.join(name, source, read)
        leaving = asyncio.ensure_future(Incoming(call.receive).until_gone())
        ends: set[asyncio.Future[Any]] = {answer, leaving, self._refused}
        try:
            await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if self._refused.done():
                raise _refusal(*self._refused.result())
            if answer.done():
                return answer.result()
            return None if leaving.done() else await shared.latest()
        finally:
            self.ended = True
            live.counters.waiting -= 1
            shared.leave(answer)
            leaving.cancel()
            await asyncio.wait({leaving})
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
