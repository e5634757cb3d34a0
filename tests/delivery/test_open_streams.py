"""The end of a process, as its streams and those who wait see it."""

from __future__ import annotations

import asyncio

from headwater.delivery._open_streams import OpenStreams
from support.until import until


class Stream:
    """What is told to a stream."""

    def __init__(self, streams: OpenStreams) -> None:
        self._streams = streams
        self.retry = 0
        self.aborted = ""

    def dismiss(self, retry: int) -> None:
        self.retry = retry
        self._streams.discard(self)

    def abort(self, why: str) -> None:
        self.aborted = why
        self._streams.discard(self)


async def test_streams_are_told_when_to_come_back_at_random():
    streams = OpenStreams()
    some = [Stream(streams) for _ in range(50)]
    for stream in some:
        streams.add(stream)
    await streams.drain()
    assert len({stream.retry for stream in some}) > 25
    assert all(500 <= stream.retry <= 5000 for stream in some)
    await streams.close()


async def test_a_stream_that_was_let_in_just_before_is_told_too():
    """Its request was asked for its rights while the end began."""
    streams = OpenStreams()
    first, late = Stream(streams), Stream(streams)
    streams.add(first)
    ending = asyncio.create_task(streams.drain())
    await until(lambda: streams.draining)
    streams.add(late)
    await asyncio.wait_for(ending, 10)
    assert late.retry >= 500
    assert late.aborted == ""
    await streams.close()


async def test_who_waits_without_being_a_stream_is_told_at_once():
    streams = OpenStreams()
    told = asyncio.Event()
    streams.on_drain.add(told.set)
    await streams.drain()
    assert told.is_set()
    await streams.close()
