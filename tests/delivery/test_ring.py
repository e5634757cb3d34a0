"""The ring against a plain list."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.delivery import _ring as rings
from headwater.delivery._ring import Ring, RingBound
from headwater.feeds._feed import Frame
from headwater.feeds._source import OrderedPlace


@dataclass(frozen=True)
class At(OrderedPlace):
    number: int

    def includes(self, other):
        return self.number >= other.number


@given(st.lists(st.sampled_from(["add", "drop", "unplaced"]), max_size=400))
def test_it_numbers_what_it_holds_and_knows_its_floor(steps):
    ring = Ring(At(0), RingBound())
    model: list[Frame] = []
    dropped = 0
    floor = At(0)
    for step, what in enumerate(steps, 1):
        if what == "drop":
            if len(model) > dropped:
                floor = model[dropped].place or floor
                dropped += 1
                ring.drop_first()
        else:
            entry = Frame(b"%d" % step, At(step) if what == "add" else None)
            model.append(entry)
            ring.append(entry)
        assert (ring.first, ring.end, ring.floor) == (dropped, len(model), floor)
    for number in range(dropped, len(model) + 1):
        assert ring.since(number) == model[number:]
        placed = [entry.place for entry in model[dropped:number] if entry.place is not None]
        assert ring.before(number) == (placed[-1] if placed else floor)


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 20), st.integers(0, 70))
def test_who_was_away_for_a_moment_is_found_from_the_end(placed, dropped, at):
    ring = Ring(At(0), RingBound())
    for number, has_place in enumerate(placed, 1):
        ring.append(Frame(b"x", At(number) if has_place else None))
    for _ in range(min(dropped, len(placed))):
        ring.drop_first()
    entries = ring.since(ring.first)
    had = [
        n for n, entry in enumerate(entries) if entry.place is not None and entry.place.number <= at
    ]
    assert ring.first_after(At(at)) == ring.first + (had[-1] + 1 if had else 0)


@pytest.mark.parametrize(("bound", "limit"), [("RING_FRAMES", 10), ("RING_BYTES", 30)])
def test_the_rings_of_one_origin_share_a_bound_and_drop_the_oldest_first(bound, limit, monkeypatch):
    """A busy feed takes the room of a quiet one: memory is bounded however many feeds there are."""
    monkeypatch.setattr(rings, bound, limit)
    shared = RingBound()
    quiet, busy = Ring(At(0), shared), Ring(At(0), shared)
    for number in range(1, 13):
        (quiet if number == 1 else busy).append(Frame(b"xyz", At(number)))
    assert (len(quiet.since(quiet.first)), len(busy.since(busy.first))) == (1, 11)
    shared.enforce()
    assert [each.place.number for each in busy.since(busy.first)] == list(range(3, 13))
    assert quiet.since(quiet.first) == []
    assert (quiet.floor, busy.floor) == (At(1), At(2))


def test_rings_that_begin_anew_are_not_counted_with_what_they_had(monkeypatch):
    monkeypatch.setattr(rings, "RING_FRAMES", 2)
    shared = RingBound()
    ring = Ring(At(0), shared)
    for number in range(1, 6):
        ring.append(Frame(b"x", At(number)))
    shared.clear()
    ring.clear(At(9))
    ring.append(Frame(b"x", At(10)))
    shared.enforce()
    assert [each.place for each in ring.since(ring.first)] == [At(10)]
