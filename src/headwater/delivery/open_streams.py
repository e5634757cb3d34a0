"""All open streams of one event loop: their count, their heartbeats, their orderly end."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headwater.delivery.heartbeat import Heartbeats

if TYPE_CHECKING:
    from headwater.delivery.stream import Stream

__all__ = ["Counters", "OpenStreams"]

logger = logging.getLogger("headwater.delivery")


# Milliseconds after which a client whose stream was ended comes back: at random, so that a
# restart is no stampede.
_RETRY = (500, 5000)


@dataclass(slots=True)
class Counters:
    """What delivery counts since it began. Only ever grows, but for ``open`` and ``waiting``."""

    open: int = 0
    waiting: int = 0
    opened: int = 0
    refused: int = 0
    frames: int = 0
    writes: int = 0
    resets: int = 0
    stalled: int = 0
    overrun: int = 0
    denied: int = 0
    reread: int = 0
    source_failures: int = 0


class OpenStreams:
    """The open streams of one event loop.

    Arguments:
        write_timeout: seconds after which a peer that takes no bytes is dropped. 30 s is the
            time that TCP_USER_TIMEOUT is commonly set to: longer than any hiccup of a mobile
            network, short enough that dead connections do not pile up.

    Attributes:
        draining: new streams are to be refused.
        on_drain: called when that begins, for what waits without being a stream.
    """

    def __init__(self, *, write_timeout: float = 30.0) -> None:
        self.write_timeout = write_timeout
        self.heartbeats = Heartbeats()
        self.counters = Counters()
        self.draining = False
        self.on_drain: set[Callable[[], None]] = set()
        self._streams: set[Stream] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event = asyncio.Event()
        self._empty.set()

    def add(self, stream: Stream) -> None:
        """Count a stream that has sent its head."""
        self._streams.add(stream)
        self._empty.clear()
        self.counters.open += 1
        self.counters.opened += 1
        if self._watch is None:
            self._arm()
        if self.draining:
            # It was let in just before, and is not among those that are being told.
            asyncio.get_running_loop().call_soon(stream.dismiss, random.randint(*_RETRY))

    def discard(self, stream: Stream) -> None:
        """A stream has ended. Idempotent."""
        if stream in self._streams:
            self._streams.remove(stream)
            self.counters.open -= 1
            if not self._streams:
                self._empty.set()

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Any:
        return iter(tuple(self._streams))

    def run(self, work: Awaitable[Any], what: str) -> asyncio.Task[Any]:
        """Run something to its end in the background; a fault is logged, never lost."""

        async def guarded() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except Exception:
                logger.exception("%s failed", what)

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self, *, spread: float = 5.0) -> None:
        """End all streams in an orderly way, and refuse new ones from now on.

        Each stream is told a random reconnection time and ended at a random moment within
        ``spread`` seconds, so that a restart is no stampede. A few streams are no stampede either:
        the spread is at most 2 ms for each.
        """
        self.draining = True
        for call in tuple(self.on_drain):
            call()
        loop = asyncio.get_running_loop()
        streams = list(self._streams)
        if streams:
            logger.info("closing %d open streams", len(streams))
        spread = min(spread, 0.002 * len(streams))
        random.shuffle(streams)
        for number, stream in enumerate(streams):
            wait = spread * number / len(streams)
            loop.call_later(wait, stream.dismiss, random.randint(*_RETRY))
        try:
            async with asyncio.timeout(spread + 2.0):
                await self._empty.wait()
        except TimeoutError:
            # Whoever does not read cannot be told; the position it holds is still good.
            for stream in tuple(self._streams):
                stream.abort("shut-down")

    async def close(self) -> None:
        """Drop what is left and stop all timers."""
        for stream in tuple(self._streams):
            stream.abort("shut-down")
        self.heartbeats.close()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=2.0)
        for task in tuple(self._tasks):
            task.cancel()

    def _arm(self) -> None:
        every = max(self.write_timeout / 6, 0.01)
        self._watch = asyncio.get_running_loop().call_later(every, self._look)

    def _look(self) -> None:
        self._watch = None
        limit = asyncio.get_running_loop().time() - self.write_timeout
        for stream in tuple(self._streams):
            since = stream.sender.busy_since
            if since is not None and since < limit:
                self.counters.stalled += 1
                stream.abort(f"it took no bytes for {self.write_timeout:g} s")
        if self._streams:
            self._arm()
