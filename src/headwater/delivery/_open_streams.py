"""All open streams of one event loop: their count, their heartbeats, their orderly end."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from headwater.delivery._heartbeat import Heartbeats
from headwater.delivery._sender import Sender
from headwater.delivery._unread import UNREAD_BYTES, Unread

logger = logging.getLogger("headwater.delivery")

# After a drain the first client reconnects after so many milliseconds, and all of them within the
# others. A browser that finds no server waits the same time again. So with shorter times more of
# them would return at once when the server is back.
_FIRST_RETURN = 1000
_RETURNS_WITHIN = (4000, 14_000)
# Milliseconds for each of them: a server opens some 500 streams a second beside its other work.
_RETURN = 4.0
# Multiples of it, modulo 1, are even over 0 to 1 however many there are (Weyl, 1916).
_GOLDEN = (5**0.5 - 1) / 2


class OpenStream(Protocol):
    """The members of a stream that the list of open streams uses.

    Attributes:
        sender: shows since when the peer takes no bytes.
        number: says which one it is, and when it was opened.
    """

    sender: Sender
    number: int

    @property
    def caller(self) -> Hashable:
        """On whose behalf it is."""
        ...

    def dismiss(self, retry: int) -> None:
        """Send a reconnection time in milliseconds, and end the response."""
        ...

    def abort(self, why: str) -> None:
        """Drop the connection at once."""
        ...


@dataclass(slots=True)
class Counters:
    """The counters of delivery. All but ``open`` and ``waiting`` only grow."""

    open: int = 0
    waiting: int = 0
    opened: int = 0
    refused: int = 0
    limited: int = 0
    frames: int = 0
    writes: int = 0
    resets: int = 0
    stalled: int = 0
    overrun: int = 0
    denied: int = 0
    reread: int = 0
    source_failures: int = 0
    invalid_skipped: int = 0
    invalid_held: int = 0


class OpenStreams:
    """The open streams of one event loop.

    Arguments:
        write_timeout: seconds after which a peer that takes no bytes is dropped. 30 s is the
            time that TCP_USER_TIMEOUT is commonly set to: longer than any hiccup of a mobile
            network, short enough that dead connections do not pile up.
        unread_bytes: of all streams that clients have not taken. Above it the caller for whom most
            bytes wait loses the stream whose client took nothing for the longest time.

    Attributes:
        unread: the streams for whose clients more waits than a connection takes at once.
        draining: new streams are to be refused.
        on_drain: is called when draining begins, for requests that wait without a stream.
    """

    def __init__(self, *, write_timeout: float = 30.0, unread_bytes: int = UNREAD_BYTES) -> None:
        self.write_timeout = write_timeout
        self.unread: Unread[OpenStream] = Unread(
            unread_bytes,
            lambda one: one.sender.pending or one.sender.blocked,
            lambda one: one.sender.taken,
            lambda one: one.caller,
            time.monotonic,
            self._drop,
        )
        self.heartbeats = Heartbeats()
        self.counters = Counters()
        self.draining = False
        self.on_drain: set[Callable[[], None]] = set()
        self._streams: set[OpenStream] = set()
        self._last = 0
        # Processes that end together begin at different numbers.
        self._returns = random.randrange(1_000_000)
        self._to_return = 0
        self._ending: asyncio.Task[None] | None = None
        self._ends_at = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event = asyncio.Event()
        self._empty.set()

    def add(self, stream: OpenStream) -> None:
        """Count a stream that has sent its head.

        Its number is the time in microseconds, or the next one that no other stream has.
        """
        self._last = stream.number = max(self._last + 1, int(time.time() * 1e6))
        self._streams.add(stream)
        self._empty.clear()
        self.counters.open += 1
        self.counters.opened += 1
        if self._timer is None:
            self._set_timer()
        if self.draining:
            # It was admitted just before draining began, so drain() does not know it.
            asyncio.get_running_loop().call_soon(stream.dismiss, self.retry())

    def discard(self, stream: OpenStream) -> None:
        """A stream has ended. Idempotent."""
        self.unread.discard(stream)
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
        """Run something to its end in the background, and log an error that it raises."""

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

    def dismiss(self, number: str) -> bool:
        """End the stream of this number; False if there is none."""
        for stream in self._streams:
            if str(stream.number) == number:
                stream.dismiss(self.retry())
                return True
        return False

    def retry(self) -> int:
        """Milliseconds after which a client comes back whose stream the server ends or refuses.

        They follow each other evenly over at least 4 s, from 1 s on: random ones would meet by
        chance. While the process ends it is 4 ms for each stream that it had, 14 s at most, and
        after the end for a stream that is refused.
        """
        self._returns += 1
        shortest, longest = _RETURNS_WITHIN
        within = min(max(shortest, _RETURN * self._to_return), longest)
        return round(_FIRST_RETURN + within * (self._returns * _GOLDEN % 1))

    def refusal(self) -> int | None:
        """Milliseconds after which a client asks again that is refused while draining, else None.

        They end after the drain, when this server is no longer asked.
        """
        if not self.draining:
            return None
        left = max(self._ends_at - asyncio.get_running_loop().time(), 0.0)
        return round(left * 1000) + self.retry()

    async def drain(self, *, spread: float = 5.0) -> None:
        """End all streams in an orderly way, and refuse new ones from now on.

        Each stream is sent another reconnection time and ended at another moment within
        ``spread`` seconds, so that a restart does not make all clients reconnect at once. The
        spread is at most 2 ms for each stream, so that a few streams end soon. A call while
        another one ends the streams waits for that one.
        """
        if self._ending is None or self._ending.done():
            self._ending = asyncio.create_task(self._end(spread))
        await asyncio.shield(self._ending)

    async def _end(self, spread: float) -> None:
        self.draining = True
        for call in tuple(self.on_drain):
            call()
        loop = asyncio.get_running_loop()
        streams = list(self._streams)
        if streams:
            logger.info("closing %d open streams", len(streams))
        self._to_return = len(streams)
        spread = min(spread, 0.002 * len(streams))
        self._ends_at = loop.time() + spread
        random.shuffle(streams)
        for number, stream in enumerate(streams):
            loop.call_later(spread * number / len(streams), stream.dismiss, self.retry())
        try:
            async with asyncio.timeout(spread + 2.0):
                await self._empty.wait()
        except TimeoutError:
            # Their clients do not read. They can resume from the position that they hold.
            for stream in tuple(self._streams):
                stream.abort("shut-down")

    async def close(self) -> None:
        """Drop the streams that are left and stop all timers."""
        for stream in tuple(self._streams):
            stream.abort("shut-down")
        self.heartbeats.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=2.0)
        for task in tuple(self._tasks):
            task.cancel()

    def _set_timer(self) -> None:
        every = max(self.write_timeout / 6, 0.01)
        self._timer = asyncio.get_running_loop().call_later(every, self._drop_stalled)

    def _drop_stalled(self) -> None:
        self._timer = None
        for stream in tuple(self._streams):
            if stream.sender.blocked:
                self.unread.add(stream)
        self.unread.look(self.write_timeout)
        if self._streams:
            self._set_timer()

    def _drop(self, stream: OpenStream, stalled: bool) -> None:
        self.counters.stalled += 1
        stream.abort(
            f"it took no bytes for {self.write_timeout:g} s"
            if stalled
            else "too many bytes wait for clients, most of them for this caller's"
        )
