"""The contract of ``trim``."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from headwater.errors import UsageError
from headwater.eventlog.record import START
from headwater.testing.eventlog.harness import Harness, numbers, read_all

__all__ = ["TrimmingContract"]


class TrimmingContract(Harness):
    """The oldest go, the rest stays, and no offset is ever given out again."""

    async def test_by_count(self) -> None:
        """A topic can be held to its newest N."""
        async with self.opened() as log:
            records = await log.append("t", [{"n": n} for n in range(10)])
            removed = await log.trim("t", max_count=4)
            assert removed == 6, f"6 records were to go and {removed} went"
            assert numbers(await read_all(log, "t")) == [6, 7, 8, 9], "the newest stay"
            bounds = await log.bounds("t")
            assert records[5].offset <= bounds.earliest < records[6].offset, f"earliest: {bounds}"
            assert bounds.latest == records[-1].offset, "latest does not change"
            run = await log.read("t", bounds.earliest, 100)
            assert numbers(run.records) == [6, 7, 8, 9], "earliest gives all that is kept"
            assert await log.trim("t", max_count=4) == 0, "nothing is left to trim"

    async def test_by_age(self) -> None:
        """Old events go, younger ones stay."""
        async with self.opened() as log:
            (old,) = await log.append("t", {"n": "old"})
            await asyncio.sleep(0.04)  # the clock itself is what is waited for
            (young,) = await log.append("t", {"n": "young"})
            middle = old.at + (young.at - old.at) / 2
            removed = await log.trim("t", max_age=datetime.now(UTC) - middle)
            kept = numbers(await read_all(log, "t"))
            assert kept == ["young"], f"{kept} are kept"
            assert removed == 1, f"one record was to go and {removed} went"
            assert await log.trim("t", max_age=timedelta(days=1)) == 0, "nothing is that old"

    async def test_by_size(self) -> None:
        """A topic can be held to so many bytes of JSON."""
        async with self.opened() as log:
            data = [{"n": n, "fill": "ä" * 50} for n in range(10)]
            size = len('{"n":0,"fill":""}') + 100
            await log.append("t", data)
            if not log.capabilities.trim_by_size:
                with pytest.raises(UsageError):
                    await log.trim("t", max_bytes=3 * size)
                return
            removed = await log.trim("t", max_bytes=3 * size)
            assert removed == 7, f"3 of 10 fit exactly, and {removed} went"
            assert numbers(await read_all(log, "t")) == [7, 8, 9], "the newest stay"
            await log.trim("t", max_bytes=3 * size - 1)
            assert numbers(await read_all(log, "t")) == [8, 9], "only two fit now"

    async def test_any_limit_counts(self) -> None:
        """With several limits the strictest decides."""
        async with self.opened() as log:
            await log.append("t", [{"n": n} for n in range(10)])
            await log.trim("t", max_count=3, max_age=timedelta(days=1))
            assert numbers(await read_all(log, "t")) == [7, 8, 9], "the count is the stricter"

    async def test_all_topics(self) -> None:
        """One call keeps a log of thousands of topics in bounds."""
        async with self.opened() as log:
            for topic in ("a", "b", "c"):
                await log.append(topic, [{"n": n} for n in range(5)])
            removed = await log.trim(max_count=2)
            assert removed == 9, f"3 of each of 3 topics were to go, and {removed} went"
            for topic in ("a", "b", "c"):
                assert numbers(await read_all(log, topic)) == [3, 4], f"topic {topic}"

    async def test_a_topic_trimmed_to_nothing_goes_on_counting(self) -> None:
        """An offset given out again would make a client skip the new record that has it."""
        async with self.opened() as log:
            old = await log.append("t", [{"n": 1}, {"n": 2}])
            assert await log.trim("t", max_count=0) == 2, "both records were to go"
            bounds = await log.bounds("t")
            assert bounds.earliest == bounds.latest == old[-1].offset, f"{bounds} of nothing"
            (new,) = await log.append("t", {"n": 3})
            assert new.offset > old[-1].offset, f"{new.offset} was given out before"
            assert numbers(await read_all(log, "t", old[-1].offset)) == [3], "it is resumed at"

    async def test_a_quiet_topic_is_not_touched_by_others(self) -> None:
        """A quiet feed's position must not expire because others are busy."""
        async with self.opened() as log:
            (quiet,) = await log.append("quiet", {"n": 1})
            for n in range(20):
                await log.append("busy", {"n": n})
            await log.trim("busy", max_count=1)
            bounds = await log.bounds("quiet")
            assert bounds.earliest == START, "the quiet topic was trimmed"
            assert bounds.latest == quiet.offset, "the quiet topic's end moved"

    async def test_followers_go_on_after_a_trim(self) -> None:
        """Trimming what a follower has had already does not disturb it."""
        async with self.opened() as log:
            follower = self.recorder()
            await log.follow("t", follower)
            await log.append("t", [{"n": n} for n in range(5)])
            await follower.count(5)
            await log.trim("t", max_count=1)
            await log.append("t", {"n": 5})
            await follower.count(6)
            assert numbers(follower.records) == [0, 1, 2, 3, 4, 5], "something was lost"
            assert not follower.resets, f"it was reset for nothing: {follower.resets}"

    async def test_nonsense_is_refused(self) -> None:
        """A negative limit is a mistake, not an order to delete everything."""
        async with self.opened() as log:
            await log.append("t", {"n": 1})
            with pytest.raises(UsageError, match="max_count"):
                await log.trim("t", max_count=-1)
            with pytest.raises(UsageError, match="max_age"):
                await log.trim("t", max_age=timedelta(seconds=-1))
            with pytest.raises(UsageError, match="max_bytes"):
                await log.trim("t", max_bytes=-1)
            assert await log.trim("t") == 0, "no limit trims nothing"
            assert await log.trim("never", max_count=0) == 0, "an unknown topic holds nothing"
            assert numbers(await read_all(log, "t")) == [1], "nonsense trimmed something"
