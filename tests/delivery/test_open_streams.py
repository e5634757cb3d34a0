"""The end of a process, as its streams and those who wait see it."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from headwater.delivery._open_streams import OpenStreams
from support.until import until


class Stream:
    """What is told to a stream."""

    def __init__(self, streams: OpenStreams) -> None:
        self._streams = streams
        self.retry = 0
        self.ended = 0
        self.aborted = ""

    def dismiss(self, retry: int) -> None:
        self.retry = retry
        self.ended += 1
        self._streams.discard(self)

    def abort(self, why: str) -> None:
        self.aborted = why
        self._streams.discard(self)


@pytest.mark.parametrize(
    ("count", "within"), [(10, 4.0), (1_000, 4.0), (2_000, 8.0), (8_000, 14.0)]
)
async def test_clients_come_back_evenly_and_over_a_longer_time_the_more_they_are(
    count: int, within: float
) -> None:
    """A tenth of a second has its share of them, and a few more at most."""
    streams = OpenStreams()
    some = [Stream(streams) for _ in range(count)]
    for stream in some:
        streams.add(stream)
    await streams.drain(spread=0.0)
    assert all(1000 <= stream.retry <= 1000 + within * 1000 for stream in some)
    tenths = Counter(stream.retry // 100 for stream in some)
    assert max(tenths.values()) <= count / (within * 10) + 4
    assert max(tenths) - min(tenths) >= within * 10 * 0.8
    await streams.close()


async def test_a_process_that_is_asked_to_end_twice_ends_each_stream_once() -> None:
    """A signal and the server's own end both ask; ends at two moments would crowd at the start."""
    streams = OpenStreams()
    some = [Stream(streams) for _ in range(50)]
    for stream in some:
        streams.add(stream)
    await asyncio.gather(streams.drain(), streams.drain(), streams.drain(spread=1.0))
    assert [stream.ended for stream in some] == [1] * 50
    await streams.close()


async def test_a_stream_that_is_refused_comes_back_after_the_end() -> None:
    streams = OpenStreams()
    assert streams.refusal() is None
    for stream in (some := [Stream(streams) for _ in range(500)]):
        streams.add(stream)
    ending = asyncio.create_task(streams.drain())
    await until(lambda: streams.draining)
    # 500 streams end over a second.
    assert {1900 <= (streams.refusal() or 0) <= 6000 for _ in some} == {True}
    await ending
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
