"""One answer for all who ask in the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ["Gathered"]

T = TypeVar("T")


class Gathered(Generic[T]):
    """Asks for something once for all who want it, and never answers with what is older than they.

    Who comes while it is being asked waits for the next time, which is one for all who wait. Used
    by one event loop.

    Arguments:
        ask: what is asked each time.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._present: asyncio.Future[T] | None = None
        self._next: asyncio.Future[T] | None = None

    async def ask(self) -> T:
        """The answer. Raises what asking raised."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._begin(self._present))
            self._next.add_done_callback(_heard)
        return await asyncio.shield(self._next)

    async def _begin(self, before: asyncio.Future[T] | None) -> T:
        if before is not None:
            await asyncio.wait([before])
        self._present, self._next = self._next, None
        return await self._ask()


def _heard(done: asyncio.Future[T]) -> None:
    # Everybody may have left meanwhile.
    if not done.cancelled():
        done.exception()
