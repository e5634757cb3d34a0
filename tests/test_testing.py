"""What users test their feeds with, and that the contract finds broken engines."""

import ast
import asyncio
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import headwater.testing
from headwater.errors import PositionError, ResetReason, UsageError
from headwater.eventlog import Bounds, EventLog, Follower, MemoryLog, Offset, Record, Run
from headwater.testing import EventLogContract, collect, parse_events
from headwater.testing._eventlog import Recorder


def test_events_of_a_stream() -> None:
    messages = parse_events(b"retry: 2000\n\nevent: log\nid: 7\ndata: a\ndata: b\n\ndata: cut off")
    assert [(one.event, one.last_event_id, one.data) for one in messages] == [("log", "7", "a\nb")]


async def chunks(*parts: bytes, then_wait: bool = False) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if then_wait:
        await asyncio.Event().wait()


async def test_collect_stops_where_it_is_told() -> None:
    """A feed's stream never ends by itself."""
    parts = (b"data: 1\n\nda", b"ta: 2\n\n", b"data: 3\n\n")
    assert len(await collect(chunks(*parts, then_wait=True), count=2)) == 2
    until = await collect(chunks(*parts, then_wait=True), until=lambda one: one.data == "3")
    assert [one.data for one in until] == ["1", "2", "3"]
    assert len(await collect(chunks(*parts))) == 3


async def test_collect_tells_what_had_come() -> None:
    with pytest.raises(AssertionError, match="after 0.05 s: 1 messages had come.*data='1'"):
        await collect(chunks(b"data: 1\n\n", then_wait=True), count=2, timeout=0.05)
    with pytest.raises(AssertionError, match="the stream ended: 0 messages"):
        await collect(chunks(b": nothing\n\n"), count=1)


def test_pytest_is_imported_for_the_contract_alone() -> None:
    code = (
        "import sys, headwater, headwater.eventlog, headwater.testing\n"
        "assert 'pytest' not in sys.modules\n"
        "headwater.testing.EventLogContract\n"
        "assert 'pytest' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="nothing"):
        _ = headwater.testing.nothing


# Engines with one fault each, and a test of the contract that must find it.


class Reordered(MemoryLog):
    async def append(self, topic: str, data: Any, **named: Any) -> list[Record]:
        if isinstance(data, Mapping) or not isinstance(data, list):
            return await super().append(topic, data, **named)
        return [
            r for one in reversed(data) for r in await super(Reordered, self).append(topic, one)
        ]


class TornBatches(MemoryLog):
    async def append(
        self, topic: str, data: Any, *, key: str | None = None, connection: Any = None
    ) -> list[Record]:
        if not isinstance(data, list):
            return await super().append(topic, data, key=key)
        records = []
        for one in data:
            records += await super().append(topic, one)
            await asyncio.sleep(0)
        return records


class Forgetful(MemoryLog):
    async def append(
        self, topic: str, data: Any, *, key: str | None = None, connection: Any = None
    ) -> list[Record]:
        return await super().append(topic, data, connection=connection)


class Gap(MemoryLog):
    async def follow(self, topic: str, follower: Follower) -> Bounds:
        bounds = await super().follow(topic, follower)
        return Bounds(bounds.epoch, bounds.earliest, bounds.latest.next())


class Deaf(MemoryLog):
    async def unfollow(self, topic: str, follower: Follower) -> None:
        pass


class OffByOne(MemoryLog):
    async def read(self, topic: str, after: Offset, limit: int) -> Run:
        return await super().read(topic, Offset.of(max(after[0] - 1, 0)), limit)


class Newest(MemoryLog):
    async def latest(self, topic: str, limit: int, before: Offset | None = None) -> Run:
        run = await super().latest(topic, limit, before)
        return Run(list(reversed(run.records)), run.bounds)


class SameLife(MemoryLog):
    async def clear(self) -> None:
        await self.trim(max_count=0)


class TaskPerTopic(MemoryLog):
    tasks: set[Any]

    async def follow(self, topic: str, follower: Follower) -> Bounds:
        self.tasks = getattr(self, "tasks", set())
        self.tasks.add(asyncio.ensure_future(asyncio.Event().wait()))
        return await super().follow(topic, follower)

    async def close(self) -> None:
        for task in getattr(self, "tasks", ()):
            task.cancel()


class CountsAnew(MemoryLog):
    async def trim(self, topic: str | None = None, **limits: Any) -> int:
        removed = await super().trim(topic, **limits)
        await self.clear()
        return removed


class Anything(MemoryLog):
    async def append(self, topic: str, data: Any, **named: Any) -> list[Record]:
        events: Iterable[Any] = [data] if isinstance(data, Mapping) else data
        kept = [one for one in events if isinstance(one, Mapping) and one.get("n") == one.get("n")]
        return await super().append(topic, kept, **named)


class WorksOn(MemoryLog):
    async def close(self) -> None:
        pass


class ShortPages(MemoryLog):
    async def read(self, topic: str, after: Offset, limit: int) -> Run:
        return await super().read(topic, after, min(limit, 100))


class Wrapped(MemoryLog, ABC):
    """Each follower is behind ``around(follower)``."""

    @abstractmethod
    def around(self, follower: Follower) -> Any: ...

    async def follow(self, topic: str, follower: Follower) -> Bounds:
        return await super().follow(topic, self.around(follower))


class WithoutKeys(Wrapped):
    def around(self, follower: Follower) -> Any:
        class Around(Recorder):
            def deliver(self, records: Sequence[Record]) -> None:
                follower.deliver([replace(one, key=None) for one in records])

        return Around()


class ResetsAhead(Wrapped):
    def around(self, follower: Follower) -> Any:
        class Around(Recorder):
            deliver = staticmethod(follower.deliver)

            def reset(self, reason: ResetReason, bounds: Bounds) -> None:
                follower.reset(reason, replace(bounds, latest=Offset.of(5)))

        return Around()


class FollowsAnything(MemoryLog):
    async def follow(self, topic: str, follower: Follower) -> Bounds:
        try:
            return await super().follow(topic, follower)
        except UsageError:
            return await self.bounds("t")


class ResetsTrimmed(MemoryLog):
    followed: Follower

    async def follow(self, topic: str, follower: Follower) -> Bounds:
        self.followed = follower
        return await super().follow(topic, follower)

    async def trim(self, topic: str | None = None, **limits: Any) -> int:
        removed = await super().trim(topic, **limits)
        self.followed.reset("unknown", await self.bounds("t"))
        return removed


class OneLess(MemoryLog):
    async def append(self, topic: str, data: Any, **named: Any) -> list[Record]:
        events = [data] if isinstance(data, Mapping) else list(data)
        if len(events) >= self.capabilities.max_batch:
            raise UsageError(f"fewer than {self.capabilities.max_batch} events, please")
        return await super().append(topic, events, **named)


@pytest.mark.parametrize(
    ("engine", "test"),
    [
        (Reordered, "test_data_comes_back_as_it_was"),
        (TornBatches, "test_a_batch_keeps_together"),
        (TornBatches, "test_bad_events_are_refused_and_nothing_is_appended"),
        (Forgetful, "test_a_retry_with_the_same_key_appends_nothing"),
        (Forgetful, "test_simultaneous_retries_append_once"),
        (Gap, "test_history_joins_live_without_gap_or_repeat"),
        (Gap, "test_a_follower_gets_what_comes_after_its_bounds"),
        (Deaf, "test_nothing_comes_after_unfollow"),
        (OffByOne, "test_reading_after_an_offset_gives_just_what_follows"),
        (OffByOne, "test_pages_back_and_forth"),
        (Newest, "test_the_latest_records_oldest_first"),
        (SameLife, "test_a_wiped_log_has_another_epoch"),
        (TaskPerTopic, "test_many_topics_share_a_reader"),
        (CountsAnew, "test_a_topic_trimmed_to_nothing_goes_on_counting"),
        (Anything, "test_bad_events_are_refused_and_nothing_is_appended"),
        (WorksOn, "test_a_closed_log_refuses_every_call"),
        (ShortPages, "test_a_page_is_full_unless_the_topic_ends"),
        (WithoutKeys, "test_a_follower_gets_what_comes_after_its_bounds"),
        (FollowsAnything, "test_bad_names_and_keys_are_refused"),
        (ResetsAhead, "test_followers_of_a_wiped_log_are_told_and_go_on"),
        (ResetsAhead, "test_its_followers_are_reset_and_get_what_comes_after"),
        (ResetsTrimmed, "test_a_follower_that_a_trim_overtakes_is_reset"),
        (OneLess, "test_a_batch_at_the_bound_is_kept_and_one_beyond_is_refused"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
async def test_the_contract_finds_a_broken_engine(engine: type[MemoryLog], test: str) -> None:
    """A third party relies on it: a fault must fail, with a sentence that says what is wrong."""

    class Broken(EventLogContract):
        patience = 0.2

        async def open(self) -> EventLog:
            return engine()

        async def wipe(self, log: EventLog) -> None:
            assert isinstance(log, MemoryLog)
            await log.clear()

    contract = Broken()
    with pytest.raises((AssertionError, PositionError, UsageError)) as caught:
        async with await contract.open() as log:
            await getattr(contract, test)(log)
    assert str(caught.value), "the contract's assertion says nothing"


def test_every_assertion_of_the_contract_says_what_is_wrong() -> None:
    """pytest shows nothing of its own for an assertion in an installed package."""
    folder = Path(headwater.testing.__file__).parent
    silent = [
        f"{path.name}:{node.lineno}"
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert) and node.msg is None
    ]
    assert not silent, silent


def test_an_engine_that_lacks_a_hook_is_told_which() -> None:
    class Half(EventLogContract):
        async def open(self) -> EventLog:
            return MemoryLog()

    with pytest.raises(TypeError, match="wipe"):
        Half()  # type: ignore[abstract]


async def test_a_durable_engine_must_be_opened_again() -> None:
    class Durable(EventLogContract):
        async def open(self) -> EventLog:
            return MemoryLog()

        async def wipe(self, log: EventLog) -> None:
            pass

    with pytest.raises(AssertionError, match="reopen"):
        await Durable().reopen(MemoryLog())
