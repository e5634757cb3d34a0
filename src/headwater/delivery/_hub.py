"""The hub: the fan-out inside one process. One reader per origin, however many streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from headwater.delivery._batch import WriteBatch
from headwater.delivery._channel import Channel
from headwater.delivery._open_streams import OpenStreams
from headwater.delivery._polls import READ_PATIENCE, Polls
from headwater.delivery._reader import OriginReader
from headwater.delivery._targets import Subscription
from headwater.delivery._unread import UNREAD_BYTES
from headwater.errors import SourceUnavailableError
from headwater.feeds._feed import Feed
from headwater.feeds._page_size import PAGE_BYTES
from headwater.feeds._shared_calls import CoalescedCalls, SharedCalls
from headwater.feeds._source import Change, Origin, Page, Place, Source

logger = logging.getLogger("headwater.delivery")

# Seconds that a reader without targets is kept, at least. The caller that got the reader adds its
# target only in a later turn of the event loop.
_SHORTEST_LINGER = 0.5


class Hub:
    """The fan-out of one event loop.

    Arguments:
        write_timeout: seconds after which a peer that takes no bytes is dropped.
        io_uring: whether to write to many connections in one system call, if the kernel can.
        page_bytes: the most bytes of JSON in a page, a snapshot or one read of a stream that is
            behind. A single item may be longer.
        unread_bytes: the most bytes that may wait for the clients of all streams. Above it the
            caller for whom most wait loses the stream whose client took nothing for longest.

    Attributes:
        streams: all open streams, of feeds and others.
        polls: requests that wait for an item.
        pages: reads of pages. Requests for the same page share one.
        page_bytes: the argument.
    """

    def __init__(
        self,
        *,
        write_timeout: float = 30.0,
        io_uring: bool = True,
        page_bytes: int = PAGE_BYTES,
        unread_bytes: int = UNREAD_BYTES,
    ) -> None:
        self.streams = OpenStreams(write_timeout=write_timeout, unread_bytes=unread_bytes)
        self.polls = Polls(self.streams, self.subscribe)
        self.pages = CoalescedCalls(patience=READ_PATIENCE)
        self.page_bytes = page_bytes
        self._batch = WriteBatch(uring=io_uring)
        # These are by the origin's id().
        self._readers: dict[int, OriginReader] = {}
        self._starting = SharedCalls()
        self._stopping: dict[int, asyncio.Task[None]] = {}
        self._lingering: dict[int, asyncio.TimerHandle] = {}

    @property
    def readers(self) -> Sequence[OriginReader]:
        """One reader for each origin that is attached."""
        return tuple(self._readers.values())

    async def hold(self, feed: Feed, source: Source) -> Channel:
        """The channel of a feed and a source, kept until ``release``, while a stream is opened.

        Raises SourceUnavailableError.
        """
        reader = await self._reader_of(source.origin)
        channel = reader.targets.get((feed, source.identity))
        if not isinstance(channel, Channel):
            channel = Channel(feed, source, reader, self.page_bytes)
            reader.add(channel)
        channel.holds += 1
        try:
            await channel.prepare()
        except BaseException:
            self.release(channel)
            raise
        return channel

    def release(self, channel: Channel) -> None:
        """Undo ``hold``: from now on only its streams keep the channel."""
        channel.holds -= 1
        channel.linger()

    async def subscribe(
        self,
        source: Source,
        call: Callable[[Sequence[Change]], None],
        on_restart: Callable[[], None] = lambda: None,
    ) -> Callable[[], None]:
        """Call ``call`` with the live changes of a source in this process.

        Returns a function that ends the subscription. The source's time window is not applied.
        Raises SourceUnavailableError when the storage is away now; later outages are bridged.

        Arguments:
            on_restart: called when changes may be missing: the storage is another one, was trimmed
                past the reader, or cannot be read until somebody corrects something.
        """
        subscription = Subscription(source.filter, call, on_restart)
        reader = await self._reader_of(source.origin)
        reader.add(subscription)
        try:
            await source.origin.ready(source.filter)
        except BaseException:
            reader.remove(subscription)
            raise
        return lambda: reader.remove(subscription)

    async def wait(self, source: Source, place: Place, timeout: float, limit: int) -> Page:
        """The page after ``place``, as soon as it has changes, or after ``timeout`` seconds.

        Callers that wait for the same share one read.
        """

        async def read() -> tuple[Page, bool]:
            page = await source.page(limit, after=place)
            return page, bool(page.changes)

        shared, answer = self.polls.join((source.identity, str(place), limit), source, read)
        try:
            await asyncio.wait([answer], timeout=timeout)
            page: Page = answer.result() if answer.done() else await shared.latest()
            return page
        finally:
            shared.leave(answer)

    async def close(self) -> None:
        """End all streams at once and detach from all origins."""
        await self.streams.close()
        for timer in self._lingering.values():
            timer.cancel()
        self._lingering.clear()
        self._starting.cancel()
        for reader in self.readers:
            await reader.stop()
        self._readers.clear()
        if self._stopping:
            await asyncio.wait(tuple(self._stopping.values()), timeout=5.0)
        self._batch.close()

    async def _reader_of(self, origin: Origin) -> OriginReader:
        timer = self._lingering.pop(id(origin), None)
        if timer is not None:
            timer.cancel()
        reader = self._readers.get(id(origin))
        if reader is None:
            return await self._starting.join(id(origin), lambda: self._start(origin))
        # The caller may never add a target.
        self._stop_later(reader)
        return reader

    async def _start(self, origin: Origin) -> OriginReader:
        stopping = self._stopping.get(id(origin))
        if stopping is not None:
            await asyncio.wait([stopping])
        reader = OriginReader(origin, self.streams.counters, self._batch, self._stop_later)
        try:
            for source in origin.wakes:
                # Before it is read, so that no change after that goes unnoticed.
                end = await self.subscribe(source, lambda _: origin.woken(), origin.woken)
                reader.on_stop.append(end)
            await reader.start()
        except SourceUnavailableError:
            reader.end_wakes()
            raise
        except Exception:
            reader.end_wakes()
            logger.exception("%s cannot be followed", origin.name)
            raise
        self._readers[id(origin)] = reader
        self._stop_later(reader)
        return reader

    def _stop_later(self, reader: OriginReader) -> None:
        """Stop a reader that is still unused after the origin's linger."""
        if reader.unused and id(reader.origin) not in self._lingering:
            linger = max(reader.origin.linger, _SHORTEST_LINGER)
            self._lingering[id(reader.origin)] = asyncio.get_running_loop().call_later(
                linger, self._stop_unused, reader
            )

    def _stop_unused(self, reader: OriginReader) -> None:
        origin = id(reader.origin)
        self._lingering.pop(origin, None)
        if reader.unused and self._readers.get(origin) is reader:
            del self._readers[origin]
            task = asyncio.get_running_loop().create_task(self._stop(reader))
            self._stopping[origin] = task
            task.add_done_callback(lambda _: self._stopping.pop(origin, None))

    async def _stop(self, reader: OriginReader) -> None:
        try:
            await reader.stop()
        except Exception:
            logger.exception("%s could not be detached from", reader.origin.name)
