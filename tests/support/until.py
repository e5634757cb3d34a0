"""Waiting for what a test cannot be told of, with a bound."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

# Seconds between two questions to another process, which needs the processor more than we do.
PAUSE = 0.01


async def until(
    condition: Callable[[], object], patience: float = 10.0, *, pause: float = 0.0
) -> Any:
    """Let the loop run until ``condition``, which may be asynchronous, gives something true."""
    async with asyncio.timeout(patience):
        while True:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(pause)


async def outside(condition: Callable[[], object], patience: float = 20.0) -> Any:
    """The same for what happens in another process."""
    return await until(condition, patience, pause=PAUSE)


async def succeeds(
    call: Callable[[], Awaitable[T]], *errors: type[Exception], patience: float = 20.0
) -> T:
    """Do it again as long as it raises one of ``errors``. Returns what it returned."""
    async with asyncio.timeout(patience):
        while True:
            try:
                return await call()
            except errors:
                await asyncio.sleep(PAUSE)
