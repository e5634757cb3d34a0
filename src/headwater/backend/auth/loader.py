"""Answers many look-ups by key with few statements."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

# Keys of one statement, so that it takes some milliseconds only.
_MAX_KEYS = 500
# Seconds after which the next fetch no longer waits for this one, whose connection may hang. No
# more than so many run at once.
_SLOW = 1.0
_MAX_FETCHES = 4
# A fetch waits at most so many seconds while look-ups keep coming. It begins after so many turns of
# the loop without one: a request takes some turns from its socket to its look-up.
_GATHER = 0.005
_QUIET = 2


class Loader(Generic[K, V]):
    """Collects look-ups by key, and fetches them together.

    One fetch runs at a time. Look-ups that come meanwhile wait, and the next fetch answers them
    all. So a storm of look-ups needs one connection, and each costs little. A fetch begins as soon
    as no more look-ups come; it never waits for time to pass. Nothing is cached: a look-up is
    answered by a fetch that began after it, and so sees everything that was committed before it.

    Arguments:
        fetch: returns the values of the keys that have one.
        gather: the most seconds that a fetch waits while turns of the loop bring more keys.
        slow: seconds after which a fetch no longer keeps the next one waiting.
    """

    def __init__(
        self,
        fetch: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]],
        *,
        gather: float = _GATHER,
        slow: float = _SLOW,
    ) -> None:
        self._fetch = fetch
        self._gather_for = gather
        self._slow = slow
        self._asked: dict[K, list[asyncio.Future[V | None]]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._due: asyncio.Handle | None = None
        self._many = 0
        self._turns = 0
        self._latest = 0.0

    async def load(self, key: K) -> V | None:
        """The value, or None where there is none. Raises what ``fetch`` raises."""
        loop = asyncio.get_running_loop()
        # Each caller has its own future: a caller that leaves must not cancel the others.
        answer: asyncio.Future[V | None] = loop.create_future()
        self._many += 1
        others = self._asked.get(key)
        if others is not None:
            others.append(answer)
        else:
            self._asked[key] = [answer]
            if self._due is None:
                if self._running:
                    self._due = loop.call_later(self._slow, self._dispatch)
                else:
                    self._gather_first(loop)
        return await answer

    def _gather_first(self, loop: asyncio.AbstractEventLoop) -> None:
        # In the next turn at the earliest, so that it includes all look-ups of this turn.
        self._turns = self._many = 0
        self._latest = loop.time() + self._gather_for
        self._due = loop.call_soon(self._gather)

    def _gather(self) -> None:
        if self._many:
            self._turns = self._many = 0
        else:
            self._turns += 1
        loop = asyncio.get_running_loop()
        if self._turns < _QUIET and loop.time() < self._latest:
            self._due = loop.call_soon(self._gather)
        else:
            self._dispatch()

    def _dispatch(self) -> None:
        self._due = None
        if not self._asked or len(self._running) >= _MAX_FETCHES:
            return
        loop = asyncio.get_running_loop()
        if len(self._asked) <= _MAX_KEYS:
            asked, self._asked = self._asked, {}
        else:
            asked = {key: self._asked.pop(key) for key in list(self._asked)[:_MAX_KEYS]}
        task = loop.create_task(self._answer(asked))
        self._running.add(task)
        task.add_done_callback(self._answered)
        self._due = loop.call_later(self._slow, self._dispatch)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._asked:
            self._gather_first(asyncio.get_running_loop())

    async def _answer(self, asked: dict[K, list[asyncio.Future[V | None]]]) -> None:
        try:
            found = await self._fetch(list(asked))
        except BaseException as error:
            for answers in asked.values():
                for answer in answers:
                    if not answer.done():
                        answer.set_exception(error)
                        # The caller may have left. Its future is cancelled then.
                        answer.exception()
            if not isinstance(error, Exception):
                raise
            return
        for key, answers in asked.items():
            value = found.get(key)
            for answer in answers:
                if not answer.done():
                    answer.set_result(value)
