"""Threads for the plain functions that produce runs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Threads"]


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
