"""Followers of one topic: each gets every record after its own beginning, once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.eventlog import START, Bounds, Offset, Record
from headwater.eventlog._following import FollowedTopic
from headwater.testing._eventlog import Recorder

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def records(after: int, last: int) -> list[Record]:
    return [Record("t", Offset.of(n), NOW, {"n": n}) for n in range(after + 1, last + 1)]


@given(st.integers(0, 20), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6)), max_size=12))
async def test_reads_that_overlap_deliver_each_record_once(
    first: int, reads: list[tuple[int, int]]
) -> None:
    """A read may repeat what was pushed."""
    followers = [Recorder(), Recorder()]
    topic = FollowedTopic("t", Offset.of(first), followers=[*followers])
    reached = first
    for begin, length in reads:
        after = min(begin, reached)  # a read never leaves a gap
        topic.deliver(records(after, after + length))
        reached = max(reached, after + length)
    assert topic.last == (reached,)
    for recorder in followers:
        assert recorder.records == records(first, reached)


@pytest.mark.parametrize(
    ("bounds", "found", "reason"),
    [
        (Bounds("e", START, Offset.of(9)), "m5", None),
        (Bounds("e", Offset.of(5), Offset.of(9)), None, None),
        (Bounds("e", Offset.of(6), Offset.of(9)), None, "expired"),
        (Bounds("e", START, Offset.of(4)), None, "unknown"),
        (Bounds("e", START, Offset.of(9)), "other", "unknown"),
        (Bounds("e", START, Offset.of(9)), None, "unknown"),
    ],
)
async def test_a_topic_goes_on_only_where_its_followers_stopped(bounds, found, reason) -> None:
    """What stands at the place must be what stood there, unless the log itself trimmed it."""
    follower = Recorder()
    topic = FollowedTopic("t", Offset.of(5), "m5", [follower])
    assert topic.lost(bounds, found) == (reason is not None)
    assert [one[0] for one in follower.resets] == [reason] * (reason is not None)
    assert topic.last == (bounds.latest if reason else (5,))


async def test_another_storage_resets_all_and_may_begin_lower() -> None:
    follower = Recorder()
    topic = FollowedTopic("t", Offset.of(50), followers=[follower])
    topic.reset("unknown", Bounds("e", START, Offset.of(2)))
    topic.deliver(records(2, 4))
    assert len(follower.resets) == 1
    assert follower.records == records(2, 4)
