"""What many want in one moment is asked once, and nobody's answer is older than promised."""

from __future__ import annotations

import asyncio

import pytest

from headwater.feeds._shared_calls import CoalescedCall, CoalescedCalls, SharedCalls
from support.until import until


class Asked:
    """A call that ends when the test lets it."""

    def __init__(self) -> None:
        self.count = 0
        self.go_on = asyncio.Event()
        self.fails: set[int] = set()

    async def __call__(self) -> int:
        self.count += 1
        number = self.count
        await self.go_on.wait()
        if number in self.fails:
            raise OSError("away")
        return number


async def test_callers_join_the_call_that_is_running_for_their_key():
    calls, asked = SharedCalls(), Asked()
    same = [asyncio.create_task(calls.join("a", asked)) for _ in range(5)]
    other = asyncio.create_task(calls.join("b", asked))
    await until(lambda: asked.count == 2)
    asked.go_on.set()
    assert await asyncio.gather(*same) == [1] * 5
    assert await other == 2
    assert await calls.join("a", asked) == 3


async def test_a_caller_that_leaves_does_not_end_the_call_for_the_others():
    calls, asked = SharedCalls(), Asked()
    first, second = (asyncio.create_task(calls.join("a", asked)) for _ in range(2))
    await until(lambda: asked.count == 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    asked.go_on.set()
    assert await second == 1


async def test_each_caller_gets_the_error_and_the_next_one_asks_again():
    calls, asked = SharedCalls(), Asked()
    asked.fails = {1}
    asked.go_on.set()
    results = await asyncio.gather(
        *(calls.join("a", asked) for _ in range(3)), return_exceptions=True
    )
    assert [str(each) for each in results] == ["away"] * 3
    assert asked.count == 1
    assert await calls.join("a", asked) == 2


async def test_cancel_ends_all_calls():
    calls, asked = SharedCalls(), Asked()
    waiting = asyncio.create_task(calls.join("a", asked))
    await until(lambda: asked.count == 1)
    calls.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_coalesced_answer_was_asked_after_its_caller_came():
    asked = Asked()
    call = CoalescedCall(asked)
    early = asyncio.create_task(call.ask())
    await until(lambda: asked.count == 1)
    late = [asyncio.create_task(call.ask()) for _ in range(5)]
    await asyncio.sleep(0)
    assert asked.count == 1, "two calls run at once"
    asked.go_on.set()
    assert await early == 1
    assert await asyncio.gather(*late) == [2] * 5


async def test_a_coalesced_call_that_failed_is_made_again_for_those_who_wait():
    asked = Asked()
    asked.fails = {1}
    call = CoalescedCall(asked)
    early = asyncio.create_task(call.ask())
    await until(lambda: asked.count == 1)
    late = asyncio.create_task(call.ask())
    asked.go_on.set()
    with pytest.raises(OSError, match="away"):
        await early
    assert await late == 2


async def test_coalesced_calls_are_by_key_and_leave_nothing():
    calls, asked = CoalescedCalls(), Asked()
    asked.fails = {2}
    early = asyncio.create_task(calls.ask("a", asked))
    other = asyncio.create_task(calls.ask("b", asked))
    await until(lambda: asked.count == 2)
    late = [asyncio.create_task(calls.ask("a", asked)) for _ in range(5)]
    await asyncio.sleep(0)
    assert len(calls) == 2
    late[0].cancel()
    asked.go_on.set()
    assert await early == 1
    with pytest.raises(OSError, match="away"):
        await other
    assert await asyncio.gather(*late[1:]) == [3] * 4
    assert len(calls) == 0


async def test_a_call_that_hangs_is_not_waited_for_by_all_who_come_later():
    """One read on a connection that was lost would else keep a page from everyone, for minutes."""
    calls, asked = CoalescedCalls(patience=0.01), Asked()
    hanging = asyncio.create_task(calls.ask("a", asked))
    await until(lambda: asked.count == 1)
    late = asyncio.create_task(calls.ask("a", asked))
    await until(lambda: asked.count == 2)
    asked.go_on.set()
    assert await asyncio.gather(hanging, late) == [1, 2]
    assert await calls.ask("a", asked) == 3
    assert len(calls) == 0
