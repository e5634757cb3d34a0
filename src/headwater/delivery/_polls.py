"""REST requests that wait for an item (``wait=``). Requests that wait for the same share the work.

Ten thousand polls of one feed at one place have one subscription, and one read when an item comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from contextlib import suppress
from copy import copy
from typing import Any

from headwater.delivery._open_streams import OpenStreams
from headwater.errors import HeadwaterError
from headwater.feeds._shared_calls import CoalescedCall
from headwater.feeds._source import Change, Source

# Reads the answer of a poll. The second value says whether the answer has items.
Read = Callable[[], Coroutine[Any, Any, tuple[Any, bool]]]

# Seconds that a read which hangs, as on a lost connection, keeps the next read of the same waiting.
READ_PATIENCE = 10.0

# How many polls are answered before the event loop does other work.
_AT_ONCE = 50


# As ``Hub.subscribe``.
Subscribe = Callable[
    [Source, Callable[[Sequence[Change]], None], Callable[[], None]],
    Awaitable[Callable[[], None]],
]


class Polls:
    """The waiting polls of one event loop. Polls with equal names share one ``SharedPoll``."""

    def __init__(self, streams: OpenStreams, subscribe: Subscribe) -> None:
        self._streams = streams
        self._subscribe = subscribe
        self._shared: dict[Hashable, SharedPoll] = {}

    def join(self, name: Hashable, source: Source, read: Read) -> tuple[SharedPoll, Answer]:
        """Wait until the answer of ``read`` has items, or the process drains.

        Returns the shared poll, and a future with the answer. When the caller stops waiting, it
        must call ``leave`` of the shared poll with the future.

        Arguments:
            name: equal for polls that wait for the same and want the same answer.
            source: the source whose changes lead to a new read.
        """
        shared = self._shared.get(name)
        if shared is None:
            shared = self._shared[name] = SharedPoll(self._streams, self._subscribe, source, read)
            shared.begin(lambda: self._shared.pop(name, None))
        return shared, shared.join()


Answer = asyncio.Future[Any]


class SharedPoll:
    """One read for all polls that wait for the same."""

    def __init__(
        self, streams: OpenStreams, subscribe: Subscribe, source: Source, read: Read
    ) -> None:
        self._streams = streams
        self._subscribe = subscribe
        self._source = source
        self._read = read
        self._fresh = CoalescedCall(read, patience=READ_PATIENCE)
        self._waiting: dict[Answer, None] = {}
        self._news = asyncio.Event()
        self._end: Callable[[], object] = lambda: None

    def begin(self, end: Callable[[], object]) -> None:
        """Begin to read. ``end`` is called when nobody can join any more."""
        self._end = end
        self._streams.run(self._run(), "a read for polls")

    def join(self) -> Answer:
        """A future of its own for each poll."""
        answer: Answer = asyncio.get_running_loop().create_future()
        self._waiting[answer] = None
        return answer

    def leave(self, answer: Answer) -> None:
        """A poll waits no more."""
        answer.cancel()
        if self._waiting.pop(answer, answer) is None and not self._waiting:
            # It is not cancelled: a read that is cancelled may cost its connection.
            self._end()
            self._news.set()

    async def latest(self) -> Any:
        """The answer as it is now, read after this call; polls that ask at once share it."""
        return (await self._fresh.ask())[0]

    async def _run(self) -> None:
        found: Any = None
        fault: Exception | None = None
        try:
            found = await self._wait()
        except Exception as error:
            fault = error
        waiting, self._waiting = tuple(self._waiting), {}
        if waiting:
            self._end()
        for at in range(0, len(waiting), _AT_ONCE):
            for answer in waiting[at : at + _AT_ONCE]:
                if answer.done():
                    continue
                if fault is None:
                    answer.set_result(found)
                else:
                    answer.set_exception(_own(fault))
            await asyncio.sleep(0)

    async def _wait(self) -> Any:
        streams, news = self._streams, self._news
        # When the storage is another one the page is read too, which raises PositionError.
        unsubscribe = await self._subscribe(self._source, lambda _: news.set(), news.set)
        streams.on_drain.add(news.set)
        try:
            while True:
                news.clear()
                found, holds = await self._read()
                if holds or streams.draining or not self._waiting:
                    return found
                # Nothing is delivered when an item leaves a time window.
                with suppress(TimeoutError):
                    async with asyncio.timeout(1.0 if self._source.window else None):
                        await news.wait()
                if not self._waiting:
                    return found
        finally:
            streams.on_drain.discard(news.set)
            unsubscribe()


def _own(error: Exception) -> Exception:
    """An error for one caller: an exception collects the traceback of each that raises it."""
    return copy(error) if isinstance(error, HeadwaterError) else error
