"""The contract of what lies under a log: opened again, wiped, closed."""

from __future__ import annotations

from headwater.eventlog.record import START
from headwater.testing.eventlog.harness import Harness, numbers, read_all

__all__ = ["StorageContract"]


class StorageContract(Harness):
    """A durable log keeps everything; a wiped one is noticed."""

    async def test_what_was_appended_is_there_after_a_restart(self) -> None:
        """Positions that clients hold are good after the server was restarted."""
        async with self.opened() as log:
            if not log.capabilities.durable:
                self.skip("the engine does not declare durable")
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

    async def test_a_wiped_log_has_another_epoch(self) -> None:
        """A position of the old life is not taken for one of the new life."""
        async with self.opened() as log:
            await log.append("t", [{"n": 1}, {"n": 2}], key="k")
            before = await log.bounds("t")
            await self.wipe(log)
            after = await log.bounds("t")
            assert after.epoch != before.epoch, "a wiped log has its old epoch"
            assert after.earliest == after.latest == START, f"{after}: it is empty"
            assert numbers(await log.append("t", {"n": 3}, key="k")) == [3], "an old key counts"
            assert numbers(await read_all(log, "t")) == [3], "old records are there"

    async def test_followers_of_a_wiped_log_are_told_and_go_on(self) -> None:
        """Streams say ``reset`` and then show the new life's events."""
        async with self.opened() as log:
            follower = self.recorder()
            before = await log.follow("t", follower)
            await log.append("t", {"n": 1})
            await follower.count(1)
            await self.wipe(log)
            await follower.until(lambda one: bool(one.resets), "a reset")
            reason, bounds, _ = follower.resets[0]
            assert reason == "unknown", f"a wiped log is 'unknown', not {reason!r}"
            assert bounds.epoch != before.epoch, "the reset carries the old epoch"
            await log.append("t", {"n": 2})
            await follower.count(2)
            assert numbers(follower.records) == [1, 2], "it did not go on with the new life"
            assert len(follower.resets) == 1, f"it was reset again: {follower.resets}"

    async def test_closing_twice_is_no_error(self) -> None:
        """Shut-down code may run more than once."""
        async with self.opened() as log:
            follower = self.recorder()
            await log.follow("t", follower)
            await log.close()
            await log.close()
