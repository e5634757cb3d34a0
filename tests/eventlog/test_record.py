"""Offsets, limits and the checks at the door, which all engines share."""

import json
import sys
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import UsageError
from headwater.eventlog._record import MAX_DEPTH, START, Offset, Retention, encode, event_in

NUMBERS = st.integers(0, 10**20 - 1)
Pair = tuple[int, int]
PAIRS = st.tuples(NUMBERS, NUMBERS)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=2))
def test_an_offset_survives_as_text(numbers: list[int]) -> None:
    """Positions carry it to a client and back."""
    offset = Offset.of(*numbers)
    assert Offset.parse(str(offset)) == offset


@settings(deadline=None)
@given(st.tuples(NUMBERS, NUMBERS), st.tuples(NUMBERS, NUMBERS))
def test_offsets_are_ordered_as_their_numbers(
    left: tuple[int, int], right: tuple[int, int]
) -> None:
    """Not as their text: 9 comes before 10."""
    assert (Offset(left) < Offset(right)) == (left < right)
    assert START <= Offset(left)
    assert Offset(left) < Offset(left).next()


@pytest.mark.parametrize(
    "text",
    ["", "-", "1-", "-1", "01", "00", "1-02", "1-2-3", "+1", " 1", "1\n", "²", "9" * 21],
)
def test_no_other_text_is_an_offset(text: str) -> None:
    """One place has one text, so that equal positions are equal strings."""
    with pytest.raises(UsageError):
        Offset.parse(text)


@settings(deadline=None)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON))
def test_what_is_encoded_is_what_was_given(data: dict[str, object]) -> None:
    event = encode(data)
    assert event.data == data
    assert json.loads(event.text) == data
    assert event.size == len(event.text.encode())


def test_tuples_become_lists_as_json_has_no_others() -> None:
    assert encode({"pair": (1, 2)}).data == {"pair": [1, 2]}


@pytest.mark.parametrize("name", [1, 1.5, True, None])
def test_a_name_that_is_no_string_is_refused_at_any_depth(name: object) -> None:
    """JSON would turn 1 into "1" silently, and None into "null"."""
    with pytest.raises(UsageError, match="names of a JSON object are strings"):
        encode({"list": [{"deep": {name: 1}}]})


def test_what_refers_to_itself_or_is_too_deep_is_refused() -> None:
    circle: dict[str, object] = {}
    circle["self"] = circle
    deep: object = 1
    for _ in range(100_000):
        deep = [deep]
    for data in (circle, {"deep": deep}):
        with pytest.raises(UsageError):
            encode(data)


def test_what_one_caller_stores_another_can_read() -> None:
    """Python's JSON takes fewer levels from a deeper stack, so the limit is far below that."""

    def nested(levels: int) -> dict[str, object]:
        return {"in": nested(levels - 1)} if levels > 1 else {}

    def read(text: str, calls: int) -> object:
        return read(text, calls - 1) if calls else event_in("t", 1, text)

    deepest = encode(nested(MAX_DEPTH))
    assert read(deepest.text, sys.getrecursionlimit() - 300) == deepest.data
    with pytest.raises(UsageError, match="at most 100 objects and lists in each other"):
        encode(nested(MAX_DEPTH + 1))


def test_an_entry_that_cannot_be_read_is_skipped() -> None:
    """Such as one that an earlier version stored: it must not keep readers from the others."""
    assert event_in("t", 1, '{"in":' + "[" * 3000 + "]" * 3000 + "}") is None


def test_errors_name_the_event_and_the_problem() -> None:
    from headwater.eventlog._record import encode_all

    with pytest.raises(UsageError, match="event 1: .*NaN|event 1: not JSON"):
        encode_all([{"n": 1}, {"n": float("nan")}], 100, 10)
    with pytest.raises(UsageError, match=r"event 0: 15 bytes of JSON, and at most 10"):
        encode_all([{"n": "xxxxxxx"}], 10, 10)


def test_limits_are_checked() -> None:
    Retention(timedelta(0), 0, 0)
    with pytest.raises(UsageError, match="max_bytes=-1"):
        Retention(max_bytes=-1)
