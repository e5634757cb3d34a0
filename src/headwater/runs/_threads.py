"""Threads for handlers that have no event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Threads"]


class Threads:
    """Runs functions in threads, so many at once; more wait.

    They are not the event loop's own: work of minutes would keep others from these. They do not
    keep the process from ending either, as those of an executor do.
    """

    def __init__(self, most: int) -> None:
        self._seats = asyncio.Semaphore(most)

    async def run(self, call: Callable[[], Any]) -> Any:
        """The function's result. A caller that is cancelled leaves the function running."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        await self._seats.acquire()

        def settle(result: Any, error: Exception | None) -> None:
            self._seats.release()
            if done.done():
                return
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        def work() -> None:
            result: Any = None
            error: Exception | None = None
            try:
                result = call()
            except Exception as fault:
                error = fault
            except BaseException as fault:  # it would end the process
                error = RuntimeError(repr(fault))
            if isinstance(error, StopIteration):  # a future refuses it
                error = RuntimeError(repr(error))
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(settle, result, error)

        threading.Thread(target=work, name="headwater run", daemon=True).start()
        return await done
