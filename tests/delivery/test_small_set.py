"""A small set is a set, whatever it is made of."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headwater.delivery._small_set import EMPTY, SmallSet, with_one, without


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=80))
def test_it_holds_what_a_set_would(steps):
    small: SmallSet[int] = EMPTY
    model: set[int] = set()
    for adds, number in steps:
        if adds:
            small = with_one(small, number)
            model.add(number)
        else:
            small = without(small, number)
            model.discard(number)
        assert sorted(small) == sorted(model)
        assert bool(small) == bool(model)


def test_a_tuple_is_not_changed_while_somebody_walks_through_it():
    members = with_one(with_one(EMPTY, "a"), "b")
    for one in members:
        assert without(members, one) != members
    assert members == ("a", "b")
