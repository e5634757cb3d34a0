"""A topic as a keyed feed: the last event of a key is the item."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import PositionError, ResetReason
from headwater.eventlog import KeyedTopic, MemoryLog, Offset, Run
from headwater.feeds._source import Change, Place
from support.until import until

EVENTS = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(["new", "done", "gone"])), max_size=60
)


def data_of(number: int, key: int, kind: str) -> dict[str, Any]:
    gone = {"gone": True} if kind == "gone" else {}
    return {"id": key, "state": kind, "n": number, **gone}


async def filled(events: Sequence[tuple[int, str]]) -> tuple[MemoryLog, list[dict[str, Any]]]:
    """A log, and its items in the order of their last change."""
    log, items = MemoryLog(), {}
    for number, (key, kind) in enumerate(events):
        data = data_of(number, key, kind)
        await log.append("t", data)
        items.pop(key, None)
        if kind != "gone":
            items[key] = data
    return log, list(items.values())


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, limit=st.integers(1, 5), state=st.sampled_from([None, "new", "done"]))
async def test_pages_have_each_item_once_as_it_is(
    events: list[tuple[int, str]], limit: int, state: str | None
) -> None:
    """From the newest page backwards, and from the oldest forwards."""
    log, items = await filled(events)
    wanted = [one for one in items if state in (None, one["state"])]
    topic = KeyedTopic(log, "t").where(state=state)
    found: list[dict[str, Any]] = []
    page = await topic.page(limit)
    while True:
        found = [change.item for change in page.changes] + found
        assert len(page.changes) <= limit
        if not page.has_more:
            break
        page = await topic.page(limit, before=page.start)
    assert found == wanted


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, more=EVENTS, limit=st.integers(1, 5))
async def test_a_returning_client_gets_the_last_state_of_each_key(
    events: list[tuple[int, str]], more: list[tuple[int, str]], limit: int
) -> None:
    """Items and removals after its position lead it to what there is."""
    log, items = await filled(events)
    topic = KeyedTopic(log, "t").where(state="new")
    held = {one["id"]: one for one in items if one["state"] == "new"}
    page = await topic.page(1)
    place = await topic.locate(page.epoch, str(page.end))
    for number, (key, kind) in enumerate(more, 1000):
        await log.append("t", data_of(number, key, kind))
    has_more = True
    while has_more:
        page = await topic.page(limit, after=place)
        for change in page.changes:
            assert change.key is not None
            held.pop(change.key["id"], None)
            if not change.removed:
                held[change.key["id"]] = change.item
        place, has_more = page.end, page.has_more
    newest = await topic.page(100)
    assert held == {change.item["id"]: change.item for change in newest.changes}


class Sink:
    """What an origin delivers to."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.resets: list[ResetReason] = []

    def deliver(self, changes: Sequence[Change], head: Place) -> None:
        self.changes += changes

    def failed(self) -> None:
        pass

    def retire(self, before: Place) -> None:
        pass

    def wanted(self, names: Collection[str]) -> Mapping[str, frozenset[Hashable]]:
        return {name: frozenset() for name in names}

    def reset(self, reason: ResetReason, head: Place) -> None:
        self.resets.append(reason)


async def test_a_change_tells_the_filters_that_it_leaves() -> None:
    """A list of what runs loses what is done, and one of all does not flicker."""
    log, _ = await filled([(1, "new"), (2, "new")])
    topic = KeyedTopic(log, "t")
    sink = Sink()
    await topic.origin.attach(sink)
    await log.append("t", data_of(2, 1, "done"))
    await until(lambda: len(sink.changes) == 2)
    left, now = sink.changes
    assert left.removed and left.values["state"] == "new" and left.key == {"id": 1}
    assert left.values_now is not None and left.values_now["state"] == "done"
    assert left.place is None and now.place is not None, "only the last one can be resumed from"
    assert now.item["state"] == "done"
    await log.append("t", data_of(3, 1, "gone"))
    await until(lambda: len(sink.changes) == 3)
    gone = sink.changes[2]
    assert gone.removed and gone.values["state"] == "done" and gone.place is not None
    await log.forget("t")
    await until(lambda: sink.resets)
    await log.append("t", data_of(4, 2, "done"))
    await until(lambda: len(sink.changes) == 4)
    assert not sink.changes[3].removed, "what was there before the reset is not known any more"
    await topic.origin.detach()


async def test_a_fault_after_a_reset_does_not_silence_the_feed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever a read raises, it is logged, and the events that were held back come."""

    class Faulty(MemoryLog):
        fault: Exception | None = None

        async def read(self, topic: str, after: Offset, limit: int) -> Run:
            fault, self.fault = self.fault, None
            if fault is not None:
                raise fault
            return await super().read(topic, after, limit)

    log = Faulty()
    await log.append("t", data_of(1, 1, "new"))
    topic = KeyedTopic(log, "t")
    sink = Sink()
    await topic.origin.attach(sink)
    await log.append("t", data_of(2, 2, "new"))
    await until(lambda: len(sink.changes) == 1)
    log.fault = RuntimeError("broken on purpose")
    await log.forget("t")
    await log.append("t", data_of(3, 3, "new"))
    await until(lambda: len(sink.changes) == 2)
    assert [change.item["id"] for change in sink.changes] == [2, 3]
    assert "broken on purpose" in caplog.text
    await topic.origin.detach()


async def test_a_page_that_was_read_forwards_has_the_items_before_it() -> None:
    """A client that returned can scroll back from what it got, without a hole."""
    log, _ = await filled([(key, "new") for key in range(6)])
    topic = KeyedTopic(log, "t")
    middle = await topic.page(2, before=(await topic.page(2)).start)
    forwards = await topic.page(2, after=middle.end)
    assert [change.item["id"] for change in forwards.changes] == [4, 5]
    back = await topic.page(2, before=forwards.start)
    assert [change.item["id"] for change in back.changes] == [2, 3]


async def test_positions_are_of_their_topic() -> None:
    log, _ = await filled([(1, "new")])
    page = await KeyedTopic(log, "t").page(1)
    with pytest.raises(PositionError):
        await KeyedTopic(log, "u").locate(page.epoch, str(page.end))


async def test_a_key_may_be_any_json() -> None:
    """One event with a list as its key must not take the feed from all others."""
    log = MemoryLog()
    topic = KeyedTopic(log, "t")
    for data in ({"id": "x"}, {"id": [1], "n": 1}, {"id": {"a": 1}}, {"id": [1], "n": 2}):
        await log.append("t", data)
    start = await topic.page(9)
    wanted = [{"id": "x"}, {"id": {"a": 1}}, {"id": [1], "n": 2}]
    assert [change.item for change in start.changes] == wanted
    sink = Sink()
    await topic.origin.attach(sink)
    await log.append("t", {"id": [1], "gone": True})
    await until(lambda: sink.changes)
    assert [(change.removed, change.key) for change in sink.changes] == [(True, {"id": [1]})]
    left = await topic.page(9, after=start.end)
    assert [(change.removed, change.key) for change in left.changes] == [(True, {"id": [1]})]
    await topic.origin.detach()
