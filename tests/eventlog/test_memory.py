"""The engine in memory: the contract, and its bounds."""

from datetime import UTC, datetime, timedelta

import pytest

from headwater.errors import SourceUnavailableError
from headwater.eventlog import EventLog, MemoryLog
from headwater.testing import EventLogContract


class TestContract(EventLogContract):
    async def open(self) -> EventLog:
        return MemoryLog()

    async def wipe(self, log: EventLog) -> None:
        assert isinstance(log, MemoryLog)
        await log.clear()


async def test_a_topic_keeps_its_newest_by_itself() -> None:
    """A process that runs for months does not grow: the oldest make room."""
    log = MemoryLog(max_count=3)
    for n in range(10):
        await log.append("t", {"n": n}, key=f"k{n}")
    run = await log.read("t", (await log.bounds("t")).earliest, 100)
    assert [record.data["n"] for record in run.records] == [7, 8, 9]
    # A key is forgotten with its record, so keys cannot grow either.
    assert (await log.append("t", {"n": 10}, key="k0"))[0].data == {"n": 10}


async def test_a_batch_larger_than_the_bound_is_acknowledged_and_cut() -> None:
    log = MemoryLog(max_count=3)
    assert len(await log.append("t", [{"n": n} for n in range(5)], key="k")) == 5
    again = await log.append("t", {"n": 0}, key="k")
    assert [record.data["n"] for record in again] == [2, 3, 4]


async def test_bytes_and_age_are_bounds_too() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    log = MemoryLog(max_bytes=30, max_age=timedelta(minutes=1), clock=lambda: now)
    for n in range(10):
        await log.append("t", {"n": n})  # 7 bytes each
    assert len((await log.latest("t", 100)).records) == 4
    now += timedelta(minutes=2)
    await log.append("t", {"n": 10})
    assert [record.data["n"] for record in (await log.latest("t", 100)).records] == [10]


async def test_topics_are_bounded() -> None:
    """Names that a client can choose cannot fill the memory."""
    log = MemoryLog(max_topics=2)
    await log.append("a", {"n": 1})
    await log.append("b", {"n": 1})
    with pytest.raises(SourceUnavailableError, match="2 topics"):
        await log.append("c", {"n": 1})
    await log.append("a", {"n": 2})
    assert (await log.bounds("c")).latest == (0,)


async def test_each_instance_is_another_life() -> None:
    """After a restart a position of the old memory is unknown."""
    epochs = {(await MemoryLog().bounds("t")).epoch for _ in range(5)}
    assert len(epochs) == 5
