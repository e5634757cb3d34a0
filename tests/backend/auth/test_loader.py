"""Look-ups of one tick become one statement."""

from __future__ import annotations

import asyncio

import pytest

from headwater.backend.auth.loader import TickLoader


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
    loader = TickLoader(spy)
    found = await asyncio.gather(*(loader.load(key) for key in (1, 2, 1, -1)))
    assert found == [10, 20, 10, None]
    assert spy.calls == [[1, 2, -1]]


async def test_nothing_is_kept():
    """Whoever asks after a change was committed sees it."""
    spy = Spy()
    loader = TickLoader(spy)
    await loader.load(1)
    await loader.load(1)
    assert spy.calls == [[1], [1]]


async def test_a_later_question_does_not_take_an_earlier_answer():
    spy = Spy()
    spy.go.clear()
    loader = TickLoader(spy)
    first = asyncio.create_task(loader.load(1))
    while not spy.calls:
        await asyncio.sleep(0)
    second = asyncio.create_task(loader.load(1))
    while len(spy.calls) < 2:
        await asyncio.sleep(0)
    spy.go.set()
    assert await first == await second == 10


async def test_many_keys_are_fetched_in_parts():
    spy = Spy()
    loader = TickLoader(spy)
    await asyncio.gather(*(loader.load(key) for key in range(1001)))
    assert [len(keys) for keys in spy.calls] == [500, 500, 1]


async def test_a_failure_reaches_everyone_who_asked():
    loader = TickLoader(Spy(OSError("away")))
    found = await asyncio.gather(loader.load(1), loader.load(2), return_exceptions=True)
    assert [str(error) for error in found] == ["away", "away"]
    with pytest.raises(OSError, match="away"):
        await loader.load(1)


async def test_who_leaves_takes_nothing_from_the_others():
    spy = Spy()
    spy.go.clear()
    loader = TickLoader(spy)
    leaves = asyncio.create_task(loader.load(1))
    stays = asyncio.create_task(loader.load(1))
    while not spy.calls:
        await asyncio.sleep(0)
    leaves.cancel()
    spy.go.set()
    assert await stays == 10
    assert leaves.cancelled() or leaves.cancelling()
