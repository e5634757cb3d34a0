"""The contract of ``follow`` and ``unfollow``, and of a storage that is opened again or wiped."""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections.abc import Sequence
from datetime import timedelta

import pytest

from headwater.errors import HeadwaterError, UsageError
from headwater.eventlog import START, Bounds, EventLog, Record
from headwater.testing._eventlog._harness import Harness, Recorder, numbers, read_all

# Following may take a few tasks for a log, and none for a topic.
FEW = 5


class FollowingContract(Harness):
    """Every record once and in order, to each follower, for any number of topics."""

    async def test_a_follower_gets_what_comes_after_its_bounds(self, log: EventLog) -> None:
        """A live stream begins where the snapshot ended."""
        old = await log.append("t", [{"n": 1}, {"n": 2}])
        follower = Recorder(self.patience)
        bounds = await log.follow("t", follower)
        assert bounds.latest == old[-1].offset, "it begins after what was there"
        new = await log.append("t", [{"n": 3}, {"n": 4}], key="k")
        await log.append("t", [{"n": 3}, {"n": 4}], key="k")
        new += await log.append("t", {"n": 5})
        await follower.until(lambda one: one.records[-1:] == new[-1:], "the last event")
        assert follower.records == new, "what is followed is not what was appended"

    async def test_history_joins_live_without_gap_or_repeat(self, log: EventLog) -> None:
        """Follow, then read up to the bounds: together they are everything, once."""
        begun, joined = asyncio.Event(), asyncio.Event()

        async def write(writer: int) -> None:
            for n in range(60):
                await log.append("t", {"n": [writer, n]})
                if n == 10:
                    begun.set()
                if n == 40:
                    await joined.wait()

        writers = asyncio.gather(*(write(writer) for writer in range(4)))
        await begun.wait()
        follower = Recorder(self.patience)
        bounds = await log.follow("t", follower)
        await log.append("t", {"n": "between following and reading"})
        history = [one for one in await read_all(log, "t") if one.offset <= bounds.latest]
        joined.set()
        await writers
        await follower.count(241 - len(history))
        assert history + follower.records == await read_all(log, "t"), "a gap or a repeat"

    async def test_concurrent_appenders_are_followed_each_once_in_order(
        self, log: EventLog
    ) -> None:
        """With many writers every follower sees the one order of the topic."""
        followers = [await self.following(log) for _ in range(3)]

        async def write(writer: int) -> None:
            for n in range(15):
                await log.append("t", [{"n": [writer, n, part]} for part in range(1 + n % 3)])

        await asyncio.gather(*(write(writer) for writer in range(10)))
        kept = await read_all(log, "t")
        assert len(kept) == 300, f"300 events were appended and {len(kept)} are kept"
        for follower in followers:
            await follower.count(300)
            assert follower.records == kept, "a follower saw another order than the log's"
        for writer in range(10):
            own = [number for number in numbers(kept) if number[0] == writer]
            assert own == sorted(own), "one writer's own order was changed"

    async def test_many_topics_share_a_reader(self, log: EventLog) -> None:
        """Thousands of topics that come and go cost no task each, and stay apart."""
        before = len(asyncio.all_tasks())
        topics = [f"topic:{n}" for n in range(300)]
        followers = {topic: await self.following(log, topic) for topic in topics}
        tasks = len(asyncio.all_tasks()) - before
        assert tasks <= FEW, f"following 300 topics took {tasks} tasks"
        await asyncio.gather(*(log.append(topic, {"n": topic}) for topic in topics))
        for topic, follower in followers.items():
            await follower.count(1)
            assert numbers(follower.records) == [topic], f"{topic} got another's events"
        for topic, follower in followers.items():
            await log.unfollow(topic, follower)
        last = await self.following(log, "last")
        await log.append("last", {"n": "last"})
        await last.count(1)

    async def test_nothing_comes_after_unfollow(self, log: EventLog) -> None:
        """A stream that has ended is not called any more, while others go on."""
        gone, stays = await self.following(log), await self.following(log)
        await log.append("t", {"n": 1})
        await gone.count(1)
        await stays.count(1)
        await log.unfollow("t", gone)
        await log.append("t", {"n": 2})
        await stays.count(2)
        assert numbers(gone.records) == [1], "it got something after unfollow"
        await log.unfollow("t", gone)  # a second time is no error
        await log.unfollow("never", gone)

    async def test_a_follower_that_leaves_before_it_has_joined_gets_nothing(
        self, log: EventLog
    ) -> None:
        """Its caller gets its bounds: nobody has cancelled it."""
        gone = Recorder(self.patience)
        joining = asyncio.create_task(log.follow("t", gone))
        await asyncio.sleep(0)
        await log.unfollow("t", gone)
        assert (await joining).latest == START, "its bounds"
        stays = await self.following(log)
        await log.append("t", {"n": 1})
        await stays.count(1)
        assert not gone.records, "it got something after unfollow"

    async def test_following_again_goes_on_from_now(self, log: EventLog) -> None:
        """A topic whose last stream left and came back misses nothing after its new bounds."""
        follower = await self.following(log)
        await log.unfollow("t", follower)
        missed = await log.append("t", {"n": 1})
        bounds = await log.follow("t", follower)
        assert bounds.latest == missed[-1].offset, "new bounds include what happened meanwhile"
        await log.append("t", {"n": 2})
        await follower.count(1)
        assert numbers(follower.records) == [2], "only what came after the new bounds"

    async def test_a_follower_that_fails_disturbs_nobody(self, log: EventLog) -> None:
        """One stream's fault must not stop the others, nor the append."""

        class Broken(Recorder):
            def deliver(self, records: Sequence[Record]) -> None:
                super().deliver(records)
                raise RuntimeError("broken on purpose")

        broken = Broken(self.patience)
        await log.follow("t", broken)
        sound = await self.following(log)
        for n in range(3):
            await log.append("t", {"n": n})
            await sound.count(n + 1)
            await broken.count(n + 1)
        assert numbers(sound.records) == [0, 1, 2], "the sound follower missed something"
        assert numbers(broken.records) == [0, 1, 2], "each record is delivered once, also to it"

    async def test_two_logs_on_one_storage_follow_each_other(self, log: EventLog) -> None:
        """Workers and hosts share a log: what one appends, the other's streams get."""
        self._needs_two(log)
        async with self.reopened(log) as other:
            follower = await self.following(other)

            async def write(one: EventLog, name: str) -> None:
                for n in range(40):
                    await one.append("t", [{"n": [name, n]}, {"n": [name, n]}])

            await asyncio.gather(write(log, "a"), write(other, "b"))
            await follower.count(160)
            kept = await read_all(log, "t")
            assert len(kept) == 160, f"160 events were appended and {len(kept)} are kept"
            assert follower.records == kept, "the other side saw another order"

    async def test_a_key_counts_on_both_sides(self, log: EventLog) -> None:
        """A retry that reaches another worker doubles nothing."""
        self._needs_two(log)
        async with self.reopened(log) as other:
            returned = await asyncio.gather(
                *(one.append("t", {"n": 1}, key="k") for one in (log, other) * 5)
            )
            assert all(records == returned[0] for records in returned), (
                "callers got different records"
            )
            assert numbers(await read_all(other, "t")) == [1], "one key was appended twice"

    def _needs_two(self, log: EventLog) -> None:
        if not log.capabilities.multi_process:
            pytest.skip("the engine does not declare multi_process")


class StorageContract(Harness):
    """A durable log keeps everything; a wiped one is noticed."""

    async def test_what_was_appended_is_there_after_a_restart(self, log: EventLog) -> None:
        """Positions that clients hold are good after the server was restarted."""
        if not log.capabilities.durable:
            pytest.skip("the engine does not declare durable")
        records = await log.append("t", [{"n": 1}, {"n": 2}], key="k")
        await log.trim("t", max_count=1)
        bounds = await log.bounds("t")
        await log.close()
        async with self.reopened(log) as again:
            assert await again.bounds("t") == bounds, "bounds or epoch changed"
            assert await read_all(again, "t") == records[1:], "records changed"
            assert await again.append("t", {"n": 9}, key="k") == records[1:], "key forgotten"
            (new,) = await again.append("t", {"n": 3})
            assert new.offset > records[-1].offset, "offsets begin anew"

    async def test_a_wiped_log_has_another_epoch(self, log: EventLog) -> None:
        """A position of the old life is not taken for one of the new life."""
        await log.append("t", [{"n": 1}, {"n": 2}], key="k")
        before = await log.bounds("t")
        await self.wipe(log)
        after = await log.bounds("t")
        assert after.epoch != before.epoch, "a wiped log has its old epoch"
        assert after.earliest == after.latest == START, f"{after}: it is empty"
        assert numbers(await log.append("t", {"n": 3}, key="k")) == [3], "an old key counts"
        assert numbers(await read_all(log, "t")) == [3], "old records are there"

    async def test_followers_of_a_wiped_log_are_told_and_go_on(self, log: EventLog) -> None:
        """Streams say ``reset`` and then show the new life's events."""
        follower = Recorder(self.patience)
        before = await log.follow("t", follower)
        await log.append("t", {"n": 1})
        await follower.count(1)
        await self.wipe(log)
        await follower.until(lambda one: bool(one.resets), "a reset")
        reason, bounds, _ = follower.resets[0]
        assert reason == "unknown", f"a wiped log is 'unknown', not {reason!r}"
        assert bounds.epoch != before.epoch, "the reset carries the old epoch"
        assert bounds.latest == START, f"the reset says {bounds} of an empty topic"
        await log.append("t", {"n": 2})
        await follower.count(2)
        assert numbers(follower.records) == [1, 2], "it did not go on with the new life"
        assert len(follower.resets) == 1, f"it was reset again: {follower.resets}"

    async def test_a_log_can_be_closed_while_writers_go_on(self, log: EventLog) -> None:
        """A shut-down must not wait for callers that never stop."""

        async def write() -> None:
            while True:
                await log.append("t", {"n": 1})
                await asyncio.sleep(0)

        writing = [asyncio.create_task(write()) for _ in range(3)]
        try:
            await (await self.following(log)).count(5)
            await asyncio.wait_for(log.close(), self.patience)
        finally:
            for task in writing:
                task.cancel()
            ends = await asyncio.gather(*writing, return_exceptions=True)
        odd = [one for one in ends if not isinstance(one, HeadwaterError | CancelledError)]
        assert not odd, f"appending to a closed log raised {odd[0]!r}"

    async def test_a_closed_log_delivers_nothing(self, log: EventLog) -> None:
        """Whatever other processes append: its loop may end."""
        if not log.capabilities.multi_process:
            pytest.skip("the engine does not declare multi_process")
        closed = await self.following(log)
        async with self.reopened(log) as other:
            follower = await self.following(other)
            await log.close()
            await other.append("t", {"n": 1})
            await follower.count(1)
            assert not closed.records, "a closed log delivered something"

    async def test_closing_waits_for_appends_that_run(self, log: EventLog) -> None:
        """At a shut-down too, a caller knows whether its event was stored."""
        appending = [
            asyncio.create_task(log.append("t", [{"n": n}] * (1 + n % 3), key=key))
            for n in range(9)
            for key in (None, f"k{n}")
        ]
        await asyncio.sleep(0)
        await log.close()
        ends = await asyncio.gather(*appending, return_exceptions=True)
        odd = [one for one in ends if not isinstance(one, list | UsageError)]
        assert not odd, f"an append under way raised {odd[:1]!r}"
        if log.capabilities.durable:
            done = [record for one in ends if isinstance(one, list) for record in one]
            async with self.reopened(log) as again:
                kept = await read_all(again, "t")
            assert kept == sorted(done, key=lambda one: one.offset), "another than was said"

    async def test_closing_ends_followers_that_join(self, log: EventLog) -> None:
        """They get an error that says why, as nobody has cancelled them."""
        joining = [asyncio.create_task(log.follow("t", Recorder())) for _ in range(3)]
        await asyncio.sleep(0)
        await log.close()
        for end in await asyncio.gather(*joining, return_exceptions=True):
            assert isinstance(end, Bounds | HeadwaterError), f"a follower got {end!r}"

    async def test_a_closed_log_refuses_every_call(self, log: EventLog) -> None:
        """A service that goes on after its shut-down hears so at once."""
        follower = await self.following(log)
        await log.append("t", {"n": 0})
        topic = log.topic("t")
        await log.close()
        for call in (
            log.start,
            lambda: log.append("t", {"n": 1}),
            lambda: log.append("t", {"n": 1}, key="k"),
            lambda: log.read("t", START, 1),
            lambda: log.latest("t", 1),
            lambda: log.bounds("t"),
            lambda: log.follow("t", Recorder()),
            lambda: log.trim("t", max_count=1),
            lambda: log.trim(max_age=timedelta(days=1)),
            lambda: log.forget("t"),
            lambda: topic.page(1),
        ):
            try:
                done = await call()
            except UsageError as error:
                assert log.name in str(error), f"whose fault it is: {error}"
            else:
                raise AssertionError(f"a call of a closed log returned {done!r}")
        await log.unfollow("t", follower)

    async def test_closing_twice_is_no_error(self, log: EventLog) -> None:
        """Shut-down code may run more than once."""
        await self.following(log)
        await log.close()
        await log.close()
