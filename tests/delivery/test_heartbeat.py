"""One timer for all streams."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from headwater.delivery._heartbeat import Heartbeats


class Stream:
    def __init__(self, heartbeat: float = 0.05) -> None:
        self.heartbeat = heartbeat
        self.last_written = asyncio.get_running_loop().time()
        self.beats = 0
        self.beaten = asyncio.Event()

    def beat(self) -> None:
        self.beats += 1
        self.last_written = asyncio.get_running_loop().time()
        self.beaten.set()


async def test_each_stream_is_beaten_at_its_own_interval_by_one_timer():
    loop = asyncio.get_running_loop()
    heartbeats = Heartbeats()
    timers = []
    call_at = loop.call_at

    def counting(*arguments, **options):
        timers.append(call_at(*arguments, **options))
        return timers[-1]

    loop.call_at = counting
    streams = [Stream() for _ in range(500)]
    for stream in streams:
        heartbeats.add(stream)
    slow = Stream(60.0)
    heartbeats.add(slow)
    alive = [timer for timer in timers if not timer.cancelled()]
    assert len(alive) == 1
    for stream in streams:
        await asyncio.wait_for(stream.beaten.wait(), 20)
    assert slow.beats == 0
    heartbeats.close()


async def test_a_stream_that_ended_is_freed_and_not_beaten():
    heartbeats = Heartbeats()
    gone, other = Stream(0.02), Stream()
    seen = weakref.ref(gone)
    token = heartbeats.add(gone)
    heartbeats.add(other)
    heartbeats.remove(token)
    del gone, token
    gc.collect()
    assert seen() is None
    await asyncio.wait_for(other.beaten.wait(), 20)
    heartbeats.close()


async def test_a_fault_in_one_stream_keeps_no_other_from_being_beaten(caplog):
    class Broken(Stream):
        def beat(self) -> None:
            raise RuntimeError("broken")

    heartbeats = Heartbeats()
    broken, other = Broken(0.01), Stream(0.02)
    heartbeats.add(broken)
    heartbeats.add(other)
    await asyncio.wait_for(other.beaten.wait(), 20)
    assert "a heartbeat could not be sent" in caplog.text
    heartbeats.close()


def test_a_stream_can_open_while_heartbeats_are_overdue():
    """On a busy uvloop a timer that is due has no time; new streams were answered 500 for it."""
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not made for this platform")

    async def open_late():
        heartbeats = Heartbeats()
        first, second = Stream(0.0), Stream(0.0)
        heartbeats.add(first)
        heartbeats.add(second)
        await asyncio.wait_for(second.beaten.wait(), 20)
        heartbeats.close()

    uvloop.run(open_late())
