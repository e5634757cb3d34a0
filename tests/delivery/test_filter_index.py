"""The index finds what a scan over all filters would find."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headwater.delivery._reader import FilterIndex
from headwater.feeds import Filter

NAMES = ("a", "b", "c")
values = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 2) | st.none())
filters = st.lists(
    st.builds(
        lambda each: Filter.of(**each), st.dictionaries(st.sampled_from(NAMES), st.integers(0, 2))
    ),
    min_size=1,
    max_size=3,
).map(lambda parts: parts[0] if len(parts) == 1 else parts[0] | parts[1])


@given(st.lists(filters, max_size=12), st.lists(values, max_size=8), st.data())
def test_it_finds_what_a_scan_finds(wanted, rows, data):
    index: FilterIndex[int] = FilterIndex()
    for number, each in enumerate(wanted):
        index.add(each, number)
    gone = data.draw(st.sets(st.sampled_from(range(len(wanted))))) if wanted else set()
    for number in gone:
        index.remove(wanted[number], number)
    for row in rows:
        expected = [n for n, each in enumerate(wanted) if n not in gone and each.matches(row)]
        assert sorted(index.match(row)) == expected
    for number in set(range(len(wanted))) - gone:
        index.remove(wanted[number], number)
    assert not index


def test_a_value_that_cannot_be_hashed_matches_nothing():
    index: FilterIndex[int] = FilterIndex()
    index.add(Filter.of(a=1), 1)
    index.add(Filter.of(), 2)
    assert list(index.match({"a": {"json": True}})) == [2]
