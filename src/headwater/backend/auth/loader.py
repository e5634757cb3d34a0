"""Many look-ups of one loop tick as one statement."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

__all__ = ["TickLoader"]

K = TypeVar("K")
V = TypeVar("V")

# SQLite takes 999 variables in its oldest builds.
_MAX_KEYS = 500


class TickLoader(Generic[K, V]):
    """Look-ups by key, gathered.

    Open streams are asked for their rights again and again, many in the same moment. What is
    asked in one tick becomes one call of ``fetch`` (one per 500 different keys), and nothing is
    kept beyond its answer: each look-up sees what was committed before it was made.
    """

    def __init__(self, fetch: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._fetch = fetch
        self._asked: dict[K, asyncio.Future[V | None]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def load(self, key: K) -> V | None:
        """The value, or None where there is none. Raises what ``fetch`` raises."""
        answer = self._asked.get(key)
        if answer is None:
            loop = asyncio.get_running_loop()
            if not self._asked:
                loop.call_soon(self._dispatch)
            answer = self._asked[key] = loop.create_future()
        # Shielded: a caller that leaves must not take the answer from the others.
        return await asyncio.shield(answer)

    def _dispatch(self) -> None:
        asked, self._asked = self._asked, {}
        keys = list(asked)
        for start in range(0, len(keys), _MAX_KEYS):
            chunk = {key: asked[key] for key in keys[start : start + _MAX_KEYS]}
            task = asyncio.get_running_loop().create_task(self._answer(chunk))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _answer(self, asked: dict[K, asyncio.Future[V | None]]) -> None:
        try:
            found = await self._fetch(list(asked))
        except BaseException as error:
            for answer in asked.values():
                if not answer.done():
                    answer.set_exception(error)
                    # Everyone who asked may have left; then nobody is to be told of it.
                    answer.exception()
            if not isinstance(error, Exception):
                raise
            return
        for key, answer in asked.items():
            if not answer.done():
                answer.set_result(found.get(key))
