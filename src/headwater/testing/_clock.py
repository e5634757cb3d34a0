"""A clock that a test moves, for heartbeats, time windows, polls and time-outs."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Self

from headwater.errors import UsageError
from headwater.feeds._clock import set_ahead, utc_now

# Turns of the loop after each step: a timer's callback, the task it wakes, and what that wakes.
_TURNS = 10


class Clock:
    """Moves the time of the running event loop, and the wall clock of feeds with it.

    ::

        async with Clock() as clock, LiveClient(app) as client:
            async with client.stream("/api/logs/stream") as stream:
                await stream.next("snapshot")
                await clock.advance(31)
                assert await stream.comment() == "heartbeat"

    What is due in between happens in its order. Time also goes on by itself. The clocks of the
    database, of other processes and of other threads are not moved.
    """

    def __init__(self) -> None:
        self._ahead = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return utc_now()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, asyncio.BaseEventLoop):
            raise UsageError(
                f"the time of {type(loop).__module__}.{type(loop).__name__} cannot be moved: run "
                "the test on asyncio's own event loop"
            )
        real = loop.time
        # Every timer of such a loop is set and compared by this public method.
        loop.time = lambda: real() + self._ahead  # type: ignore[method-assign]
        self._loop = loop
        return self

    async def __aexit__(self, *exc: object) -> None:
        set_ahead(timedelta())
        # The loop's time stays ahead: to set it back would hold up the timers that are waiting.

    async def advance(self, seconds: float, *, step: float = 1.0) -> None:
        """Let this time pass in steps. After each step the timers that are due run."""
        if seconds < 0 or step <= 0:
            raise UsageError("a clock goes forward: seconds is 0 or more, step more than 0")
        if self._loop is not asyncio.get_running_loop():
            raise UsageError("use the clock within its `async with` block")
        left = float(seconds)
        while left > 0:
            moved = min(step, left)
            left -= moved
            self._ahead += moved
            set_ahead(timedelta(seconds=self._ahead))
            for _ in range(_TURNS):
                await asyncio.sleep(0)
