"""A client holds a place for days: it must survive being written down, and nonsense must not."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import PositionError, UsageError
from headwater.feeds._position import Position
from headwater.sql.postgresql._place import GONE, ROW, At, SnapshotPlace, Walk
from headwater.sql.postgresql._snapshot import NOTHING, TransactionSnapshot

NOW = datetime(2026, 1, 1, tzinfo=UTC)
numbers = st.integers(0, 2**63 - 1)
moments = st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))
keys = st.sampled_from(["", '["a"]', '["ü~", "7"]'])
changes = st.builds(At, numbers, st.sampled_from([GONE, ROW]), numbers, keys)


@st.composite
def places(draw):
    running = sorted(draw(st.sets(st.integers(0, 2**40), max_size=5)))
    snapshot = TransactionSnapshot(
        running[-1] + 1 if running else draw(st.integers(0, 99)), tuple(running)
    )
    lacking = draw(st.sets(st.sampled_from([*running, snapshot.xmax]), max_size=2))
    parts = tuple(
        At(xid, draw(st.sampled_from([GONE, ROW])), draw(numbers), draw(keys))
        for xid in sorted(lacking)
    )
    until = draw(st.none() | moments)
    among = draw(st.none() | changes) if until else None
    as_of = draw(st.none() | numbers) if until else None
    return SnapshotPlace(snapshot, parts, until, among, draw(st.booleans()), as_of)


@given(places())
def test_text_and_back(place):
    text = str(place)
    assert SnapshotPlace.parse(text) == place
    assert str(SnapshotPlace.parse(text)) == text
    Position("abc", "1", text)  # fits into a position


@pytest.mark.parametrize(
    "text",
    ["", "A", "01", "1:", "1,", "1,1", "1,2R1", "5,1R1", "1:~~", "1~", "1~2~", "1~2~3", "1,P,P",
     "1,1R0,1R0", "zzzzzzzzzzzzzz", "1:AAAAAAAA", "1,1R1:!", "1,1R1:bm8", "1 "],
)  # fmt: skip
def test_nonsense_is_unknown(text):
    with pytest.raises(PositionError) as caught:
        SnapshotPlace.parse(text)
    assert caught.value.reason == "unknown"


@given(st.text(max_size=40) | st.from_regex(r"[0-9a-z]{1,3}(:[0-9A-Za-z_-]{1,9})?(,[0-9a-z]R1)?"))
def test_any_text_is_a_place_or_unknown(text):
    try:
        assert str(SnapshotPlace.parse(text)) == text
    except PositionError as error:
        assert error.reason == "unknown"


def test_a_key_that_does_not_fit_is_refused_clearly():
    place = SnapshotPlace(NOTHING, (At(0, ROW, 0, f'["{"x" * 1500}"]'),))
    with pytest.raises(UsageError, match="primary key"):
        str(place)


def test_having_a_change():
    place = SnapshotPlace(TransactionSnapshot(10, (7,)), (At(7, ROW, 3), At(10, GONE, 2)))
    assert place.has_change(At(9, ROW, 99))
    assert place.has_change(At(7, GONE, 99))
    assert place.has_change(At(7, ROW, 3))
    assert not place.has_change(At(7, ROW, 4))
    assert place.has_change(At(10, GONE, 2))
    assert not place.has_change(At(10, ROW, 1))
    assert not place.has_change(At(11, ROW, 1))


def test_a_walk_through_what_a_snapshot_has():
    """Transaction 7 ran when the client was told 8 and 9; 12 is running now."""
    start = SnapshotPlace(TransactionSnapshot(10, (7,)))
    walk = Walk(start, TransactionSnapshot(15, (12,)), None)
    first = walk.to(At(7, ROW, 1))
    assert first == SnapshotPlace(TransactionSnapshot(10, (7,)), (At(7, ROW, 1),))
    later = walk.to(At(13, ROW, 1))
    assert later == SnapshotPlace(TransactionSnapshot(13, (12,)), (At(13, ROW, 1),))
    assert later.includes(first)
    assert not first.includes(later)
    assert walk.end(TransactionSnapshot(15, (12,))) == SnapshotPlace(TransactionSnapshot(15, (12,)))
    assert later.has(first)


def test_since_is_what_either_has():
    base = SnapshotPlace(TransactionSnapshot(20, (5, 12)), (At(12, ROW, 4),))
    place = SnapshotPlace(TransactionSnapshot(8), (At(8, ROW, 1),), last=At(8, ROW, 1))
    both = place.since(base)
    assert both == SnapshotPlace(TransactionSnapshot(20, (12,)), (At(12, ROW, 4),))
    assert both.last == place.last
    assert both.since(base) is both
    assert both.includes(base)
    assert both.includes(place)


def test_since_a_base_what_left_is_known_up_to_the_earlier_moment():
    """What the base has beyond the place may have left since the base was read."""
    base = SnapshotPlace(TransactionSnapshot(20), removed_until=NOW, as_of=22)
    place = SnapshotPlace(TransactionSnapshot(8), removed_until=NOW + timedelta(1))
    both = place.since(base)
    assert both == SnapshotPlace(TransactionSnapshot(20), removed_until=NOW, as_of=22)
    assert base.since(place) is base


def test_moving_the_window_keeps_the_place():
    place = SnapshotPlace(
        TransactionSnapshot(4), removed_until=NOW, among=At(1, ROW, 1), last=At(3, ROW, 3)
    )
    moved = place.at(NOW + timedelta(1))
    assert (moved.removed_until, moved.among, moved.last) == (NOW + timedelta(1), None, place.last)
