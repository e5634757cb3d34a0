"""The contract of topics that are forgotten, of those that are kept whole, and of another log."""

from __future__ import annotations

import asyncio
import threading

import pytest

from headwater.errors import PositionError, UsageError
from headwater.eventlog import START, EventLog, Topic
from headwater.testing._eventlog._harness import Harness, numbers, read_all


class ForgettingContract(Harness):
    """A log whose topics come and go stays as small as what it holds."""

    async def test_a_forgotten_topic_is_as_if_it_had_never_been(self, log: EventLog) -> None:
        """A run that is deleted leaves no output, no position and no place behind."""
        await log.append("t", [{"n": n} for n in range(30)], key="first")
        await log.append("t", {"n": 30})
        place = (await Topic(log, "t").page(1)).end
        epoch = (await Topic(log, "t").page(1)).epoch
        await log.forget("t")
        assert await read_all(log, "t") == [], "its events are still there"
        bounds = await log.bounds("t")
        assert (bounds.earliest, bounds.latest) == (START, START), f"{bounds} of nothing"
        with pytest.raises(PositionError):
            await Topic(log, "t").locate(epoch, str(place))
        await log.append("t", [{"n": n} for n in range(100, 140)])
        assert numbers(await read_all(log, "t")) == list(range(100, 140)), "it begins anew"
        with pytest.raises(PositionError):
            await Topic(log, "t").locate(epoch, str(place))

    async def test_its_keys_go_too_or_are_known_without_records(self, log: EventLog) -> None:
        """A new run with an old name must not be given the old one's records."""
        await log.append("t", {"n": 1}, key="k")
        await log.forget("t")
        again = await log.append("t", {"n": 2}, key="k")
        if log.capabilities.keys_kept is None:
            assert numbers(again) == [2], "the key was not forgotten"
        assert numbers(again) in ([], [2]), f"{again} came with the key"
        assert await read_all(log, "t") == again, "what was returned is not what is there"

    async def test_other_topics_stay(self, log: EventLog) -> None:
        """Forgetting is about the topics that are named, and about all of them."""
        for topic in ("a", "b", "c", "ab"):
            await log.append(topic, [{"n": 1}, {"n": 2}])
        await log.forget("a", "c", "never", "a")
        await log.forget()
        for topic, wanted in (("a", []), ("b", [1, 2]), ("c", []), ("ab", [1, 2])):
            assert numbers(await read_all(log, topic)) == wanted, f"topic {topic}"
        with pytest.raises(UsageError):
            await log.forget("b", "not a topic")
        assert numbers(await read_all(log, "b")) == [1, 2], "nothing of a refused call is done"

    async def test_its_followers_are_reset_and_get_what_comes_after(self, log: EventLog) -> None:
        """A stream of a topic that is gone must not wait for ever, nor skip what is new."""
        follower, other = await self.following(log), await self.following(log, "u")
        await log.append("t", [{"n": n} for n in range(5)])
        await follower.count(5)
        await log.forget("t")
        await follower.until(lambda one: bool(one.resets), "a reset")
        (new,) = await log.append("t", {"n": 9})
        _, bounds, _ = follower.resets[-1]
        assert bounds.latest < new.offset, f"{bounds} of the reset leave out what comes next"
        await follower.until(lambda one: new in one.records, "what came after")
        await log.append("u", {"n": 1})
        await other.count(1)
        assert not other.resets, "the followers of another topic were reset"

    async def test_a_topic_that_is_kept_whole_is_trimmed_by_name_only(self, log: EventLog) -> None:
        """A run's output makes sense from its first event on, however long it takes."""
        for topic in ("run:a", "a"):
            await log.append(topic, [{"n": n} for n in range(5)])
        assert await log.trim(max_count=2) == 3, "it counts what it removed"
        assert numbers(await read_all(log, "a")) == [3, 4], "others are trimmed"
        assert numbers(await read_all(log, "run:a")) == [0, 1, 2, 3, 4], "it was beheaded"
        await log.trim("run:a", max_count=1)
        assert numbers(await read_all(log, "run:a")) == [4], "its name was given"

    async def test_another_log_serves_another_event_loop(self, log: EventLog) -> None:
        """Signs of life come from a thread of their own, while the application's loop is busy."""
        follower = await self.following(log)
        if not log.capabilities.multi_process:
            with pytest.raises(UsageError):
                log.another()
            return
        (first,) = await log.append("t", {"n": 0})
        found: list[object] = []
        thread = threading.Thread(target=lambda: asyncio.run(_use(log, found)))
        thread.start()
        await asyncio.to_thread(thread.join)
        assert found == [[0, 1]], f"the other log read {found}"
        await follower.count(2)
        assert numbers(follower.records) == [0, 1], "what the other appended is followed here"
        assert follower.records[0] == first, "it is one storage"
        await log.append("t", {"n": 2})
        assert numbers(await read_all(log, "t")) == [0, 1, 2], "closing the other closed this"


async def _use(log: EventLog, found: list[object]) -> None:
    try:
        async with log.another() as other:
            await other.append("t", {"n": 1})
            found.append(numbers(await read_all(other, "t")))
    except Exception as error:  # the test shows it
        found.append(error)
