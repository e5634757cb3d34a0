"""Waiting for a condition that no event announces, with a bound."""

from __future__ import annotations

import asyncio
import inspect
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")

# Seconds between two questions to another process, which needs the processor more than we do.
PAUSE = 0.01
# Turns of the loop without a pause. What this process does by itself is done within them; what
# takes longer waits for a timer or a file, and must not wait beside a loop that spins.
TURNS = 100
SHORT_PAUSE = 0.002


@asynccontextmanager
async def patience(seconds: float) -> AsyncIterator[None]:
    """Bound a wait. The TimeoutError says what each task waits for, and what time the loop had."""
    began, cpu = time.monotonic(), time.process_time()
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        took, used = time.monotonic() - began, time.process_time() - cpu
        text = io.StringIO()
        for task in asyncio.all_tasks():
            task.print_stack(limit=12, file=text)
        raise TimeoutError(
            f"not within {seconds:g} s ({took:.1f} s passed, of which this process ran "
            f"{used:.1f} s); its tasks:\n{text.getvalue()}"
        ) from error


async def until(
    condition: Callable[[], object], patience: float = 10.0, *, pause: float = 0.0
) -> Any:
    """Run the loop until ``condition``, which may be asynchronous, returns something true."""
    turns = 0
    async with asyncio.timeout(patience):
        while True:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            turns += 1
            await asyncio.sleep(pause or (SHORT_PAUSE if turns > TURNS else 0))


async def outside(condition: Callable[[], object], patience: float = 20.0) -> Any:
    """The same for a condition in another process."""
    return await until(condition, patience, pause=PAUSE)


async def succeeds(
    call: Callable[[], Awaitable[T]], *errors: type[Exception], patience: float = 20.0
) -> T:
    """Call again as long as the call raises one of ``errors``. Returns the first result."""
    async with asyncio.timeout(patience):
        while True:
            try:
                return await call()
            except errors:
                await asyncio.sleep(PAUSE)


def waited(
    condition: Callable[[], object],
    patience: float = 20.0,
    explain: Callable[[], str] = lambda: "the condition did not come true",
    *,
    pause: float = PAUSE,
) -> Any:
    """``outside`` where no event loop runs. ``explain`` gives the text of the TimeoutError."""
    end = time.monotonic() + patience
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {patience:g} s: {explain()}")
        time.sleep(pause)
    return found
