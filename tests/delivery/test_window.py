"""Who is in a time window, and who has left."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from headwater.delivery._window import Members

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


async def test_of_several_that_leave_at_one_moment_the_last_is_marked():
    """A client cut off between two of them must be told the second when it returns."""
    clock, left = Clock(), []
    members = Members(timedelta(seconds=10), lambda *gone: left.append(gone), clock)
    members.load([({"id": n}, at(moment)) for n, moment in ((1, 0), (2, 0), (3, 1), (4, 50))])
    clock.now = at(11)
    members.expire()
    assert left == [
        ({"id": 1}, at(10), False),
        ({"id": 2}, at(10), True),
        ({"id": 3}, at(11), True),
    ]
    assert len(members) == 1
    members.close()


async def test_what_changed_while_the_storage_was_asked_is_not_overwritten():
    clock = Clock()
    members = Members(timedelta(seconds=10), lambda *_: None, clock)
    assert members.update({"id": 1}, at(0))
    assert members.remove({"id": 2})
    members.load([({"id": 1}, at(-5)), ({"id": 2}, at(0)), ({"id": 3}, at(0))])
    assert members.has({"id": 1})
    assert not members.has({"id": 2})
    assert members.has({"id": 3})
    members.close()


async def test_an_item_that_changes_often_does_not_grow_the_heap():
    clock = Clock()
    members = Members(timedelta(seconds=10), lambda *_: None, clock)
    members.load([])
    for number in range(10_000):
        clock.now = at(number / 1000)
        members.update({"id": 1}, clock.now)
    assert len(members._heap) < 100
    assert len(members) == 1
    members.close()
