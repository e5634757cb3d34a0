"""Followers of one topic: each gets every record after its own beginning, once."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from headwater.eventlog import START, Bounds, Offset, Record
from headwater.eventlog._following import FollowedTopic, Following
from headwater.testing.eventlog import Recorder

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def records(after: int, last: int) -> list[Record]:
    return [Record("t", Offset.of(n), NOW, {"n": n}) for n in range(after + 1, last + 1)]


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6)), max_size=12),
)
async def test_reads_that_overlap_deliver_each_record_once(
    joined_at: list[int], reads: list[tuple[int, int]]
) -> None:
    """A read may repeat what was pushed, and a follower may have joined ahead of the reader."""
    followers = [(at, Recorder()) for at in joined_at]
    first = min(joined_at)
    topic = FollowedTopic("t", Offset.of(first))
    topic.followings += [Following(recorder, Offset.of(at)) for at, recorder in followers]
    reached = first
    for begin, length in reads:
        after = min(begin, reached)  # a read never leaves a gap
        topic.deliver(records(after, after + length))
        reached = max(reached, after + length)
    assert topic.last == (reached,)
    for at, recorder in followers:
        assert recorder.records == records(at, reached)


async def test_only_the_followers_that_lost_records_are_reset_by_a_trim() -> None:
    behind, ahead = Recorder(), Recorder()
    topic = FollowedTopic("t", START)
    topic.followings += [Following(behind, START), Following(ahead, Offset.of(7))]
    bounds = Bounds("e", Offset.of(5), Offset.of(9))
    topic.reset("expired", bounds)
    assert [reset[:2] for reset in behind.resets] == [("expired", bounds)]
    assert not ahead.resets
    topic.deliver(records(7, 11))
    assert behind.records == records(9, 11)
    assert ahead.records == records(7, 11)


async def test_another_storage_resets_all_and_may_begin_lower() -> None:
    follower = Recorder()
    topic = FollowedTopic("t", Offset.of(50))
    topic.followings.append(Following(follower, Offset.of(50)))
    topic.reset("unknown", Bounds("e", START, Offset.of(2)))
    topic.deliver(records(2, 4))
    assert len(follower.resets) == 1
    assert follower.records == records(2, 4)
