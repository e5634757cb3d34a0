"""The hub: the fan-out inside one process. One follower per origin, however many streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from headwater.delivery.batch import Batch
from headwater.delivery.channel import Channel
from headwater.delivery.follower import Follower, Tap
from headwater.delivery.open_streams import OpenStreams
from headwater.errors import SourceUnavailableError
from headwater.feeds.feed import Feed
from headwater.feeds.source import Change, Origin, Page, Place, Source

__all__ = ["Hub"]

logger = logging.getLogger("headwater.delivery")


class Hub:
    """The fan-out of one event loop.

    Arguments:
        write_timeout: seconds after which a peer that takes no bytes is dropped.
        io_uring: write to many connections in one system call where the kernel offers that.

    Attributes:
        streams: all open streams, of feeds and others.
    """

    def __init__(self, *, write_timeout: float = 30.0, io_uring: bool = True) -> None:
        self.streams = OpenStreams(write_timeout=write_timeout)
        self._batch = Batch(uring=io_uring)
        self._followers: dict[int, Follower] = {}
        self._starting: dict[int, asyncio.Task[Follower]] = {}
        self._stopping: dict[int, asyncio.Task[None]] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}

    async def hold(self, feed: Feed, source: Source) -> Channel:
        """The channel of a feed and a selection, kept until ``release``, while a stream is opened.

        Raises SourceUnavailableError.
        """
        follower = await self._follow(source.origin)
        channel = follower.channels.get((feed, source.identity))
        if channel is None:
            channel = Channel(feed, source, follower, follower.head)
            follower.add(channel)
        channel.holds += 1
        try:
            await channel.prepare()
        except BaseException:
            self.release(channel)
            raise
        return channel

    def release(self, channel: Channel) -> None:
        """Undo ``hold``: the channel is kept by its streams alone, if it has any by now."""
        channel.holds -= 1
        channel.release()

    async def subscribe(
        self, source: Source, call: Callable[[Sequence[Change]], None]
    ) -> Callable[[], None]:
        """Call ``call`` with the live changes of a source in this process.

        Returns what ends it. Its window, if it has one, is not looked at. Raises
        SourceUnavailableError when the storage is away now; later outages are bridged.
        """
        return await self._tap(source, Tap(source.filter, call))

    async def _tap(self, source: Source, tap: Tap) -> Callable[[], None]:
        follower = await self._follow(source.origin)
        follower.tap(tap)
        return lambda: follower.untap(tap)

    async def wait(self, source: Source, place: Place, timeout: float, limit: int) -> Page:
        """The page after ``place``, waited for until it holds something or ``timeout`` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        something = asyncio.Event()
        # A storage that begins anew answers too: with an error, if the place is no more.
        tap = Tap(source.filter, lambda _: something.set(), something.set)
        end = await self._tap(source, tap)
        self.streams.on_drain.add(something.set)
        try:
            while True:
                something.clear()
                page = await source.page(limit, after=place)
                left = deadline - loop.time()
                if page.changes or left <= 0 or self.streams.draining:
                    return page
                try:
                    async with asyncio.timeout(min(left, 1.0) if source.window else left):
                        await something.wait()
                except TimeoutError:
                    continue
        finally:
            self.streams.on_drain.discard(something.set)
            end()

    async def close(self) -> None:
        """End all streams at once and detach from all origins."""
        await self.streams.close()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in tuple(self._starting.values()):
            task.cancel()
        for follower in tuple(self._followers.values()):
            await follower.stop()
        self._followers.clear()
        if self._stopping:
            await asyncio.wait(tuple(self._stopping.values()), timeout=5.0)
        self._batch.close()

    async def _follow(self, origin: Origin) -> Follower:
        name = id(origin)
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        follower = self._followers.get(name)
        if follower is not None:
            # It may be let go while nobody has taken it; then this begins the wait again.
            self._unused_later(follower)
            return follower
        task = self._starting.get(name)
        if task is None:
            task = asyncio.ensure_future(self._start(origin))
            self._starting[name] = task
            task.add_done_callback(lambda done: self._started(name, done))
        return await asyncio.shield(task)

    async def _start(self, origin: Origin) -> Follower:
        stopping = self._stopping.get(id(origin))
        if stopping is not None:
            await asyncio.wait([stopping])
        follower = Follower(
            origin, self.streams.counters, self._batch, lambda: self._unused_later(follower)
        )
        try:
            await follower.start()
        except SourceUnavailableError:
            raise
        except Exception:
            logger.exception("%s cannot be followed", origin.name)
            raise
        self._followers[id(origin)] = follower
        self._unused_later(follower)
        return follower

    def _started(self, name: int, task: asyncio.Task[Follower]) -> None:
        self._starting.pop(name, None)
        if not task.cancelled():
            task.exception()

    def _unused_later(self, follower: Follower) -> None:
        # A channel joins in the tick in which it is given the follower, so that even a linger of 0
        # must wait for the next one.
        name = id(follower.origin)
        if name in self._timers or not follower.unused:
            return
        loop = asyncio.get_running_loop()
        wait = max(follower.origin.linger, 0.5)
        self._timers[name] = loop.call_later(wait, self._let_go, follower)

    def _let_go(self, follower: Follower) -> None:
        name = id(follower.origin)
        self._timers.pop(name, None)
        if follower.unused and self._followers.get(name) is follower:
            del self._followers[name]
            task = asyncio.get_running_loop().create_task(self._stop(follower))
            self._stopping[name] = task
            task.add_done_callback(lambda _: self._stopping.pop(name, None))

    async def _stop(self, follower: Follower) -> None:
        try:
            await follower.stop()
        except Exception:
            logger.exception("%s could not be let go", follower.origin.name)
