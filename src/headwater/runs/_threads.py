"""Threads for the plain functions that produce runs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Threads:
    """Runs functions in threads, at most ``most`` at the same time. Further ones wait.

    It does not use the executor of the event loop, because runs take minutes and would block other
    work there. Threads of an executor would also keep the process from ending; these do not.
    """

    def __init__(self, most: int) -> None:
        self._seats = asyncio.Semaphore(most)

    async def run(self, call: Callable[[], Any]) -> Any:
        """Returns the function's result. If the caller is cancelled, the function goes on."""
        loop = asyncio.get_running_loop()
        await self._seats.acquire()
        done: Future[Any] = Future()
        done.set_running_or_notify_cancel()

        def work() -> None:
            try:
                done.set_result(call())
            except BaseException as fault:
                plain = isinstance(fault, Exception) and not isinstance(fault, StopIteration)
                # The others would end the process, or are refused by the loop's future.
                done.set_exception(fault if plain else RuntimeError(repr(fault)))
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._seats.release)

        threading.Thread(target=work, name="headwater run", daemon=True).start()
        return await asyncio.wrap_future(done)
