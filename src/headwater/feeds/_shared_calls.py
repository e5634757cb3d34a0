"""Calls that several callers share, so that many equal requests cost one call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def is_cancelled() -> bool:
    """Whether this task was cancelled. Otherwise a CancelledError is of something it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class SharedCalls:
    """Calls under way, by key: a caller joins the one that is running. Used by one event loop."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Any]] = {}

    async def join(self, key: Hashable, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of the running call with this key, or of ``call`` if there is none.

        The call goes on when a caller is cancelled. Each caller gets what it raised.
        """
        task: asyncio.Task[T] | None = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.get_running_loop().create_task(call())
            task.add_done_callback(partial(self._ended, key))
        return await asyncio.shield(task)

    def cancel(self) -> None:
        """Cancel all calls that are running."""
        for task in tuple(self._running.values()):
            task.cancel()

    def _ended(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        del self._running[key]
        _retrieve_error(task)


class CoalescedCall(Generic[T]):
    """One call for all callers that wait. It begins after the last of them has arrived.

    So no answer is older than its request. A caller that arrives while a call is running waits for
    the next one, and shares it with all others that wait. Used by one event loop.

    Arguments:
        call: is called each time.
        patience: seconds that a call may keep the next one waiting; None for as long as it takes.
    """

    def __init__(self, call: Callable[[], Awaitable[T]], *, patience: float | None = None) -> None:
        self._call = call
        self._patience = patience
        self._present: asyncio.Future[T] | None = None
        self._next: asyncio.Future[T] | None = None

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for a call that has not begun."""
        return self._next is not None

    async def ask(self) -> T:
        """The answer. Raises what the call raised."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._begin(self._present))
            self._next.add_done_callback(_retrieve_error)
        return await asyncio.shield(self._next)

    async def _begin(self, before: asyncio.Future[T] | None) -> T:
        if before is not None:
            await asyncio.wait([before], timeout=self._patience)
        self._present, self._next = self._next, None
        return await self._call()


class CoalescedCalls:
    """As ``CoalescedCall``, by key. Used by one event loop.

    Arguments:
        patience: as for ``CoalescedCall``.
    """

    def __init__(self, *, patience: float | None = None) -> None:
        self._patience = patience
        self._calls: dict[Hashable, CoalescedCall[Any]] = {}

    def __len__(self) -> int:
        """How many keys have a call that is running or waited for."""
        return len(self._calls)

    async def ask(self, key: Hashable, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The answer of a call with this key that begins after this. Raises what the call raised.

        The call goes on when a caller is cancelled.
        """
        shared: CoalescedCall[T] | None = self._calls.get(key)
        if shared is None:
            again = partial(self._run, key, call)
            shared = self._calls[key] = CoalescedCall(again, patience=self._patience)
        return await shared.ask()

    async def _run(self, key: Hashable, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return await call()
        finally:
            # A call that hung may end after its successor.
            shared = self._calls.get(key)
            if shared is not None and not shared.awaited:
                del self._calls[key]


def _retrieve_error(done: asyncio.Future[Any]) -> None:
    # asyncio logs an error that is never retrieved, and all callers may have left.
    if not done.cancelled():
        done.exception()
