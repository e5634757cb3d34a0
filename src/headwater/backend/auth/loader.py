"""Many look-ups as few statements."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

__all__ = ["Loader"]

K = TypeVar("K")
V = TypeVar("V")

# Keys of one statement: it should be over in some milliseconds.
_MAX_KEYS = 500
# A fetch that takes longer, in seconds, does not keep the next one waiting: it may be one of a
# connection that hangs. No more than so many run then.
_SLOW = 1.0
_MAX_FETCHES = 4


class Loader(Generic[K, V]):
    """Look-ups by key, gathered.

    One fetch runs at a time. What is asked meanwhile waits and becomes one call of ``fetch`` when
    it has ended, so the busier it is the less each look-up costs, and a storm needs one connection.
    Nothing is kept beyond its answer: each look-up is answered by a fetch that began after it was
    made, and so sees what was committed before.
    """

    def __init__(self, fetch: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._fetch = fetch
        self._asked: dict[K, list[asyncio.Future[V | None]]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._due: asyncio.Handle | None = None

    async def load(self, key: K) -> V | None:
        """The value, or None where there is none. Raises what ``fetch`` raises."""
        loop = asyncio.get_running_loop()
        # Each has a future of its own: one that leaves must not take the answer from the others.
        answer: asyncio.Future[V | None] = loop.create_future()
        others = self._asked.get(key)
        if others is not None:
            others.append(answer)
        else:
            self._asked[key] = [answer]
            if self._due is None and not self._running:
                # In the next tick, so that what is asked in this one goes along.
                self._due = loop.call_soon(self._dispatch)
        return await answer

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
        self._due = loop.call_later(_SLOW, self._dispatch)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._due is not None:
            self._due.cancel()
        self._dispatch()

    async def _answer(self, asked: dict[K, list[asyncio.Future[V | None]]]) -> None:
        try:
            found = await self._fetch(list(asked))
        except BaseException as error:
            for answers in asked.values():
                for answer in answers:
                    if not answer.done():
                        answer.set_exception(error)
                        # Who asked may leave before it is told; then nobody is to be.
                        answer.exception()
            if not isinstance(error, Exception):
                raise
            return
        for key, answers in asked.items():
            value = found.get(key)
            for answer in answers:
                if not answer.done():
                    answer.set_result(value)
