"""A position travels in a header: it must be short, whatever runs, and read back as it was."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.sql.postgresql._snapshot import NOTHING, TransactionSnapshot

snapshots = st.lists(st.integers(0, 40), max_size=12, unique=True).flatmap(
    lambda running: st.builds(
        TransactionSnapshot,
        st.integers(max(running, default=-1) + 1, 45),
        st.just(tuple(sorted(running))),
    )
)
ANY = range(60)


def those(snapshot):
    return {xid for xid in ANY if snapshot.has(xid)}


@given(snapshots, snapshots)
def test_a_union_has_what_either_has(one, other):
    union = one.union(other)
    assert those(union) == those(one) | those(other)
    assert union.running == tuple(sorted(union.running))
    assert union.covers(one)
    assert union.covers(other)


@given(snapshots, snapshots)
def test_covering_is_having_all_of_it(one, other):
    assert one.covers(other) == (those(one) >= those(other))


@given(snapshots, st.integers(0, 50))
def test_a_cut_has_what_is_below(snapshot, xmax):
    assert those(snapshot.cut(xmax)) == {xid for xid in those(snapshot) if xid < xmax}


@given(st.lists(st.integers(0, 2**62), max_size=50, unique=True), st.integers(0, 2**40))
def test_text_and_back(running, above):
    snapshot = TransactionSnapshot(max(running, default=0) + 1 + above, tuple(sorted(running)))
    xmax, _, rest = str(snapshot).partition(":")
    assert TransactionSnapshot.parse(xmax, rest or None) == snapshot


def test_what_postgresql_says_and_takes():
    assert TransactionSnapshot.from_postgres("10:20:10,14,15") == TransactionSnapshot(
        20, (10, 14, 15)
    )
    assert TransactionSnapshot.from_postgres("20:20:") == TransactionSnapshot(20)
    assert TransactionSnapshot(20, (10, 14)).for_postgres() == "10:20:10,14"
    assert NOTHING.for_postgres() == "1:1:"


@pytest.mark.parametrize(
    ("running", "among", "most"),
    [(0, 1000, 10), (1, 10**6, 20), (100, 1000, 110), (100, 10**5, 220), (1000, 1000, 190),
     (1000, 10**4, 900), (1000, 10**5, 1500), (1000, 3 * 10**5, 1700)],
)  # fmt: skip
def test_lengths(running, among, most):
    """In characters, for so many running transactions spread over so many of the latest."""
    dice = random.Random(running)
    latest = 10**9
    ids = sorted(dice.sample(range(latest - among, latest), running))
    assert len(str(TransactionSnapshot(latest, tuple(ids)))) <= most
    # One that has been forgotten for days among the others costs little more.
    with_old = TransactionSnapshot(latest, (latest - 10**8, *ids))
    assert len(str(with_old)) <= most + 30
