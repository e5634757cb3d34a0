"""A property: after any steps a SQL engine's log says the same as the one in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.eventlog import Bounds, MemoryLog, Offset, Record, Run
from headwater.eventlog.sql import SqlLog
from headwater.testing._eventlog import Recorder

T = TypeVar("T")

TOPICS = st.sampled_from(["a", "b", "c"])
KEYS = st.sampled_from([None, "k1", "k2", "k3"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner),
    max_leaves=4,
)
EVENTS = st.lists(st.fixed_dictionaries({"n": VALUES}), max_size=4)


def contents(run: Run) -> tuple[list[Record], Offset, Offset]:
    """A run without the epoch, which is each engine's own."""
    return list(run.records), run.bounds.earliest, run.bounds.latest


def ends(bounds: Bounds) -> tuple[Offset, Offset]:
    return bounds.earliest, bounds.latest


class SqlAgainstMemory(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.model = MemoryLog(max_count=None, clock=lambda: self.now)
        self.followers: dict[str, tuple[Recorder, Recorder]] = {}
        self.open()

    def open(self) -> None:
        self.log = SqlLog(self.engine(), clock=lambda: self.now)

    def engine(self) -> AsyncEngine:
        """An engine on an empty database of this example."""
        raise AssertionError

    def remove(self) -> None:
        """Remove the example's database."""

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def both(self, name: str, *args: Any, **named: Any) -> tuple[Any, Any]:
        async def ask() -> tuple[Any, Any]:
            model = await getattr(self.model, name)(*args, **named)
            return model, await getattr(self.log, name)(*args, **named)

        return self.run(ask())

    async def settle(self) -> None:
        """Until the followers of the engine have what those in memory have."""
        for model, real in self.followers.values():
            await real.count(len(model.records))
            assert real.records == model.records
            assert not real.resets

    @rule(topic=TOPICS, events=EVENTS, key=KEYS, seconds=st.integers(0, 5))
    def append(self, topic: str, events: list[Any], key: str | None, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        model, real = self.both("append", topic, events, key=key)
        assert real == model

    @rule(topic=TOPICS, batches=st.lists(st.tuples(EVENTS, KEYS), min_size=2, max_size=5))
    def append_at_once(self, topic: str, batches: list[Any]) -> None:
        """Appends that wait at the same time are committed together, in the order of the calls."""

        async def all_of_them() -> tuple[list[Any], list[Any]]:
            model = [await self.model.append(topic, one, key=key) for one, key in batches]
            real = await asyncio.gather(
                *(self.log.append(topic, one, key=key) for one, key in batches)
            )
            return model, real

        model, real = self.run(all_of_them())
        assert real == model

    @rule(topic=TOPICS, commit=st.booleans(), events=EVENTS, key=KEYS)
    def append_in_a_transaction(
        self, topic: str, commit: bool, events: list[Any], key: str | None
    ) -> None:
        async def joined() -> Any:
            async with self.log.engine.connect() as connection:
                records = await self.log.append(topic, events, key=key, connection=connection)
                await (connection.commit() if commit else connection.rollback())
            return records

        real = self.run(joined())
        if commit:
            assert real == self.run(self.model.append(topic, events, key=key))

    @rule(topic=TOPICS, after=st.integers(0, 30), limit=st.integers(1, 10))
    def read(self, topic: str, after: int, limit: int) -> None:
        model, real = self.both("read", topic, Offset.of(after), limit)
        assert contents(real) == contents(model)

    @rule(topic=TOPICS, before=st.none() | st.integers(0, 30), limit=st.integers(1, 10))
    def latest(self, topic: str, before: int | None, limit: int) -> None:
        offset = None if before is None else Offset.of(before)
        model, real = self.both("latest", topic, limit, offset)
        assert contents(real) == contents(model)

    @rule(
        topic=st.none() | TOPICS,
        age=st.none() | st.integers(0, 20),
        count=st.none() | st.integers(0, 10),
        size=st.none() | st.integers(0, 100),
    )
    def trim(self, topic: str | None, age: int | None, count: int | None, size: int | None) -> None:
        # A follower of the engine that is behind would be reset; the one in memory never is behind.
        self.run(self.settle())
        model, real = self.both(
            "trim",
            topic,
            max_age=None if age is None else timedelta(seconds=age),
            max_count=count,
            max_bytes=size,
        )
        assert real == model

    @rule(topic=TOPICS)
    def follow(self, topic: str) -> None:
        if topic not in self.followers:
            pair = self.followers[topic] = (Recorder(), Recorder())

            async def both() -> tuple[Bounds, Bounds]:
                return (
                    await self.model.follow(topic, pair[0]),
                    await self.log.follow(topic, pair[1]),
                )

            model, real = self.run(both())
            assert ends(real) == ends(model)

    @precondition(lambda self: self.followers)
    @rule(topic=TOPICS)
    def unfollow(self, topic: str) -> None:
        if topic in self.followers:
            self.run(self.settle())
            model, real = self.followers.pop(topic)
            self.run(self.model.unfollow(topic, model))
            self.run(self.log.unfollow(topic, real))

    @precondition(lambda self: not self.followers)
    @rule()
    def reopen(self) -> None:
        self.run(self.close())
        self.open()

    async def close(self) -> None:
        await self.log.close()
        await self.log.engine.dispose()

    @invariant()
    def bounds_are_the_same(self) -> None:
        for topic in ("a", "b", "c"):
            model, real = self.both("bounds", topic)
            assert ends(real) == ends(model)

    def teardown(self) -> None:
        try:
            self.run(self.settle())
        finally:
            self.run(self.close())
            self.runner.close()
            self.remove()
