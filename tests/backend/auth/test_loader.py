"""Look-ups that come together, or while one is under way, become one statement."""

from __future__ import annotations

import asyncio

import pytest

from headwater.backend.auth.loader import Loader
from support.until import until


class Spy:
    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[list[int]] = []
        self._error = error
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, keys):
        self.calls.append(list(keys))
        await self.go.wait()
        if self._error is not None:
            raise self._error
        return {key: key * 10 for key in keys if key >= 0}


async def test_what_is_asked_at_once_is_fetched_once():
    spy = Spy()
    loader = Loader(spy)
    found = await asyncio.gather(*(loader.load(key) for key in (1, 2, 1, -1)))
    assert found == [10, 20, 10, None]
    assert spy.calls == [[1, 2, -1]]


@pytest.mark.parametrize("bound", [60.0, 0.0])
async def test_what_comes_one_after_another_goes_together_within_bounds(bound):
    """Requests that arrive in one moment do not come to their questions in one turn."""
    spy = Spy()
    loader = Loader(spy, gather=bound)

    async def late(key):
        for _ in range(key):
            await asyncio.sleep(0)
        return await loader.load(key)

    assert await asyncio.gather(*(late(key) for key in range(50))) == list(range(0, 500, 10))
    if bound:
        assert spy.calls == [list(range(50))]
    else:
        assert len(spy.calls) > 1


async def test_nothing_is_kept():
    """Whoever asks after a change was committed sees it."""
    spy = Spy()
    loader = Loader(spy)
    await loader.load(1)
    await loader.load(1)
    assert spy.calls == [[1], [1]]


async def test_a_later_question_does_not_take_an_earlier_answer():
    """A right that was taken away while a fetch was under way is seen by who asks then."""
    spy = Spy()
    spy.go.clear()
    loader = Loader(spy)
    first = asyncio.create_task(loader.load(1))
    await until(lambda: spy.calls)
    second = asyncio.create_task(loader.load(1))
    await asyncio.sleep(0)
    spy.go.set()
    assert await first == await second == 10
    assert spy.calls == [[1], [1]]


async def test_a_storm_is_a_few_statements():
    """What comes while one runs goes together in the next, so none waits for a connection."""
    spy = Spy()
    spy.go.clear()
    loader = Loader(spy)
    asked = [asyncio.create_task(loader.load(0))]
    await until(lambda: spy.calls)
    for key in range(1, 100):
        asked.append(asyncio.create_task(loader.load(key)))
        await asyncio.sleep(0)
    assert len(spy.calls) == 1
    spy.go.set()
    assert await asyncio.gather(*asked) == [key * 10 for key in range(100)]
    assert [len(keys) for keys in spy.calls] == [1, 99]


async def test_one_that_hangs_does_not_stop_the_others():
    """A connection that is dead without saying so must not keep everyone from signing in."""
    spy = Spy()
    spy.go.clear()
    loader = Loader(spy, slow=0.01)
    hangs = asyncio.create_task(loader.load(1))
    await until(lambda: spy.calls)
    go, spy.go = spy.go, asyncio.Event()
    spy.go.set()
    async with asyncio.timeout(10):
        assert await loader.load(2) == 20
        # Also when nobody was waiting as that one was answered.
        for _ in range(3):
            await asyncio.sleep(0)
        assert await loader.load(3) == 30
    assert not hangs.done()
    go.set()
    assert await hangs == 10


async def test_many_keys_are_fetched_in_parts():
    spy = Spy()
    loader = Loader(spy)
    await asyncio.gather(*(loader.load(key) for key in range(1001)))
    assert [len(keys) for keys in spy.calls] == [500, 500, 1]


async def test_a_failure_reaches_everyone_who_asked():
    loader = Loader(Spy(OSError("away")))
    found = await asyncio.gather(loader.load(1), loader.load(2), return_exceptions=True)
    assert [str(error) for error in found] == ["away", "away"]
    with pytest.raises(OSError, match="away"):
        await loader.load(1)


async def test_who_leaves_takes_nothing_from_the_others():
    spy = Spy()
    spy.go.clear()
    loader = Loader(spy)
    leaves = asyncio.create_task(loader.load(1))
    stays = asyncio.create_task(loader.load(1))
    await until(lambda: spy.calls)
    leaves.cancel()
    spy.go.set()
    assert await stays == 10
    assert leaves.cancelled() or leaves.cancelling()
