"""A client holds a place for days: it must survive being written down, and nonsense must not."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import PositionError
from headwater.feeds._position import Position
from headwater.sql import RowPlace

numbers = st.integers(0, 2**63 - 1)
moments = st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))


@given(numbers, st.none() | moments, st.none() | numbers, st.booleans(), st.none() | numbers)
def test_text_and_back(number, until, among, past, as_of):
    place = RowPlace(number, until, among if until else None, past, as_of if until else None)
    assert RowPlace.parse(str(place)) == place
    Position("abc", "1", str(place))  # fits into a position


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "~",
        "1~",
        "01",
        "A",
        "1~2~",
        "1~2~3~4",
        "zzzzzzzzzzzzzzz",
        "1~zzzzzzzzzzzzz",
        "1 ",
        "-1",
    ],
)
def test_nonsense_is_unknown(text):
    with pytest.raises(PositionError) as caught:
        RowPlace.parse(text)
    assert caught.value.reason == "unknown"


@given(st.text(max_size=40))
def test_any_text_is_a_place_or_unknown(text):
    try:
        assert str(RowPlace.parse(text)) == text
    except PositionError as error:
        assert error.reason == "unknown"


def test_order_is_by_number_alone():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert RowPlace(4).includes(RowPlace(4, now))
    assert not RowPlace(4, now).includes(RowPlace(5))
    assert RowPlace(4).at(now) == RowPlace(4, now)
    assert RowPlace(4, now + timedelta(1)).at(None) == RowPlace(4)
