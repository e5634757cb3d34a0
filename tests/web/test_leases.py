"""Rights of open streams are asked again and again, however long the answers take."""

from __future__ import annotations

import asyncio

from headwater.delivery.open_streams import OpenStreams
from headwater.web.leases import Leases


class Stream:
    """What a lease needs of a stream."""

    def __init__(self) -> None:
        self.ended = False
        self.ended_with: list[int] = []
        self.failed = asyncio.Event()

    def on_close(self, call) -> None:
        pass

    def fail(self, status: int) -> None:
        self.ended_with.append(status)
        self.failed.set()


async def test_a_round_that_takes_long_is_not_overtaken_by_the_next():
    """On a busy machine rounds would pile up until nothing else gets its turn."""
    leases = Leases(OpenStreams(), interval=0.001)
    running = most = asked = 0
    gate, often = asyncio.Event(), asyncio.Event()

    async def check() -> None:
        nonlocal running, most, asked
        running += 1
        most = max(most, running)
        await gate.wait()
        for _ in range(50):
            await asyncio.sleep(0)
        running -= 1
        asked += 1
        if asked == 3:
            often.set()

    streams = [Stream()]
    leases.hold(streams[0], "one", check, frozenset(), 0)
    async with asyncio.timeout(10):
        while not running:
            await asyncio.sleep(0)
        # A stream that comes during a round does not begin another.
        streams.append(Stream())
        leases.hold(streams[1], "one", check, frozenset(), leases.doubts)
        gate.set()
        await often.wait()
    leases.close()
    assert most == 1


async def test_nothing_is_asked_after_the_end():
    leases = Leases(OpenStreams(), interval=0.001)
    asked = asyncio.Event()
    gate = asyncio.Event()

    async def check() -> None:
        assert not asked.is_set()
        asked.set()
        await gate.wait()

    stream = Stream()
    leases.hold(stream, "one", check, frozenset(), 0)
    async with asyncio.timeout(10):
        await asked.wait()
        leases.close()
        gate.set()
        leases.hold(stream, "two", check, frozenset(), 0)
        for _ in range(100):
            await asyncio.sleep(0)
    assert leases._timer is None


async def test_a_right_that_was_lost_ends_its_streams():
    leases = Leases(OpenStreams(), interval=0.001)
    streams = [Stream(), Stream()]

    async def check() -> int:
        return 403

    for stream in streams:
        leases.hold(stream, "one", check, frozenset({"user:7"}), 0)
    await leases.recheck("user:7")
    assert [stream.ended_with for stream in streams] == [[403], [403]]
    leases.close()


async def test_a_right_that_was_lost_while_the_stream_opened_ends_it():
    """The guards said yes; the change was told before there was a stream to look at again."""
    leases = Leases(OpenStreams(), interval=60)
    stream = Stream()

    async def check() -> int:
        return 401

    before = leases.doubts
    await leases.recheck("user:7")
    leases.hold(stream, "one", check, frozenset({"user:7"}), before)
    await asyncio.wait_for(stream.failed.wait(), 10)
    assert stream.ended_with == [401]
    leases.close()
