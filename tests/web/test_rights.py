"""Rights of open streams are asked again and again, however long the answers take."""

from __future__ import annotations

import asyncio

from headwater.delivery._open_streams import OpenStreams
from headwater.web._rights import Rights
from support.until import until


class Stream:
    """What a right needs of a stream."""

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
    rights = Rights(OpenStreams(), interval=0.001)
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
    rights.hold(streams[0], "one", check, (), 0)
    await until(lambda: running)
    async with asyncio.timeout(10):
        # A stream that comes during a round does not begin another.
        streams.append(Stream())
        rights.hold(streams[1], "one", check, (), rights.rechecks)
        gate.set()
        await often.wait()
    rights.close()
    assert most == 1


async def test_nothing_is_asked_after_the_end():
    rights = Rights(OpenStreams(), interval=0.001)
    asked = asyncio.Event()
    gate = asyncio.Event()

    async def check() -> None:
        assert not asked.is_set()
        asked.set()
        await gate.wait()

    stream = Stream()
    rights.hold(stream, "one", check, (), 0)
    async with asyncio.timeout(10):
        await asked.wait()
        rights.close()
        gate.set()
        rights.hold(stream, "two", check, (), 0)
        for _ in range(100):
            await asyncio.sleep(0)
    assert rights._timer is None


async def test_a_right_that_was_lost_ends_its_streams():
    rights = Rights(OpenStreams(), interval=0.001)
    streams = [Stream(), Stream()]

    async def check() -> int:
        return 403

    for stream in streams:
        rights.hold(stream, "one", check, ("user:7",), 0)
    await rights.recheck("user:7")
    assert [stream.ended_with for stream in streams] == [[403], [403]]
    rights.close()


async def test_a_right_that_was_lost_while_the_stream_opened_ends_it():
    """The guards said yes; the change was told before there was a stream to look at again."""
    rights = Rights(OpenStreams(), interval=60)
    stream = Stream()

    async def check() -> int:
        return 401

    before = rights.rechecks
    await rights.recheck("user:7")
    rights.hold(stream, "one", check, ("user:7",), before)
    await asyncio.wait_for(stream.failed.wait(), 10)
    assert stream.ended_with == [401]
    rights.close()


async def test_one_that_hangs_does_not_keep_the_others_from_being_asked():
    rights = Rights(OpenStreams(), interval=0.001)
    often, hang = asyncio.Event(), asyncio.Event()
    hung = asked = 0

    async def hangs() -> None:
        nonlocal hung
        hung += 1
        await hang.wait()

    async def answers() -> None:
        nonlocal asked
        asked += 1
        if asked == 5:
            often.set()

    rights.hold(Stream(), "one", hangs, (), 0)
    rights.hold(Stream(), "two", answers, (), 0)
    await asyncio.wait_for(often.wait(), 10)
    rights.close()
    hang.set()
    assert hung == 1


async def test_the_rights_of_thousands_are_asked_by_a_few_workers():
    """Asked all at once they would keep every delivery waiting."""
    rights = Rights(OpenStreams(), interval=60)
    running = most = asked = 0

    async def check() -> None:
        nonlocal running, most, asked
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        asked += 1

    streams = [Stream() for _ in range(2000)]
    for number, stream in enumerate(streams):
        rights.hold(stream, number, check, (), 0)
    await rights.recheck()
    rights.close()
    assert asked == 2000
    assert most <= 32


async def test_all_are_asked_within_one_interval():
    """Streams that opened in one moment are asked one after another, none of them late."""
    loop = asyncio.get_running_loop()
    rights = Rights(OpenStreams(), interval=25.0)
    asked: dict[int, int] = {}
    groups: set[int] = set()

    def holding(number: int):
        async def check() -> None:
            asked[number] = asked.get(number, 0) + 1

        return check

    streams = [Stream() for _ in range(500)]
    for number, stream in enumerate(streams):
        rights.hold(stream, number, holding(number), (), 0)
    began, turns = loop.time(), 0
    while len(asked) < len(streams):
        # As the timer would, when it is due.
        timer = rights._timer
        assert timer is not None
        assert rights._due - began <= 25.0
        timer.cancel()
        before = len(asked)
        rights._turn()
        turns += 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        groups.add(len(asked) - before)
    rights.close()
    assert turns > 50
    assert max(groups) < 50
    assert set(asked.values()) == {1}


async def test_a_flood_of_rechecks_of_many_is_one_round_after_another():
    """Changes of many callers' rights would else keep everyone waiting who did nothing."""
    rights = Rights(OpenStreams(), interval=60)
    gate, begun = asyncio.Event(), asyncio.Event()
    asked = 0

    async def check() -> None:
        nonlocal asked
        asked += 1
        begun.set()
        await gate.wait()

    for number in range(20):
        rights.hold(Stream(), number, check, (f"user:{number}",), 0)
    first = asyncio.ensure_future(rights.recheck("user:0"))
    await begun.wait()
    others = [asyncio.ensure_future(rights.recheck(f"user:{n % 20}")) for n in range(200)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, *others)
    assert asked == 1 + 20
    rights.close()
