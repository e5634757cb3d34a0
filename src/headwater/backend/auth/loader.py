"""Answers many look-ups by key with few statements."""

from __future__ import annotations

import asyncio
from collections import deque
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


class _Batch(Generic[K, V]):
    """Keys that are fetched together, and what came of it."""

    def __init__(self) -> None:
        self.keys: dict[K, None] = {}
        self.done = asyncio.Event()
        self.found: Mapping[K, V] = {}
        self.error: BaseException | None = None

    def takes(self, key: K) -> bool:
        """Whether it has the key, or room for it."""
        return key in self.keys or len(self.keys) < _MAX_KEYS


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
        self._waiting: deque[_Batch[K, V]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._due: asyncio.Handle | None = None
        # Turns of the loop since the latest look-up, without its own.
        self._turns = 0
        self._latest = 0.0

    async def load(self, key: K) -> V | None:
        """The value, or None where there is none. Raises what ``fetch`` raises."""
        self._turns = -1
        batch = next((each for each in self._waiting if each.takes(key)), None)
        if batch is None:
            batch = _Batch()
            self._waiting.append(batch)
        if self._due is None:
            loop = asyncio.get_running_loop()
            if self._running:
                self._due = loop.call_later(self._slow, self._dispatch)
            else:
                self._gather_first(loop)
        batch.keys[key] = None
        await batch.done.wait()
        if batch.error is not None:
            raise batch.error
        return batch.found.get(key)

    def _gather_first(self, loop: asyncio.AbstractEventLoop) -> None:
        # In the next turn at the earliest, so that it includes all look-ups of this turn.
        self._turns = 0
        self._latest = loop.time() + self._gather_for
        self._due = loop.call_soon(self._gather)

    def _gather(self) -> None:
        self._turns += 1
        loop = asyncio.get_running_loop()
        if self._turns < _QUIET and loop.time() < self._latest:
            self._due = loop.call_soon(self._gather)
        else:
            self._dispatch()

    def _dispatch(self) -> None:
        self._due = None
        if not self._waiting or len(self._running) >= _MAX_FETCHES:
            return
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._answer(self._waiting.popleft()))
        self._running.add(task)
        task.add_done_callback(self._answered)
        self._due = loop.call_later(self._slow, self._dispatch)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._waiting:
            self._gather_first(asyncio.get_running_loop())

    async def _answer(self, batch: _Batch[K, V]) -> None:
        try:
            batch.found = await self._fetch(list(batch.keys))
        except BaseException as error:
            batch.error = error
            if not isinstance(error, Exception):
                raise
        finally:
            batch.done.set()
