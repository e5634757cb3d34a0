"""What cannot be framed is refused when the value is made, where its author can see it."""

import enum

import pytest

from headwater.errors import FramingError
from headwater.protocol import MAX_RETRY, Comment, Event


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("id", {"id": "1\nevent: admin"}),
        ("id", {"id": "1\rdata: forged"}),
        ("id", {"id": "1\r\n"}),
        ("id", {"id": "a\0b"}),
        ("id", {"id": "\ud800"}),
        ("id", {"id": True}),
        ("id", {"id": 1.5}),
        ("id", {"id": b"7"}),
        ("event", {"event": "log\ndata: forged", "data": ""}),
        ("event", {"event": "log\r", "data": ""}),
        ("event", {"event": "\udfff", "data": ""}),
        ("event", {"event": "", "data": ""}),
        ("event", {"event": 7, "data": ""}),
        ("data", {"data": "half \ud83d a pair"}),
        ("data", {"data": b"\xff"}),
        ("retry", {"retry": -1}),
        ("retry", {"retry": True}),
        ("retry", {"retry": 1.0}),
        ("retry", {"retry": "5"}),
        ("retry", {"retry": MAX_RETRY + 1}),
        ("data", {}),
        ("data", {"event": "log"}),
    ],
)
def test_what_would_break_the_framing_is_refused_and_the_error_names_the_field(field, values):
    with pytest.raises(FramingError) as caught:
        Event(**values)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}=")


def test_an_error_does_not_print_the_raw_line_breaks_into_a_log():
    with pytest.raises(FramingError) as caught:
        Event(id="1\nforged log line\u2028" + "x" * 500)
    assert str(caught.value).isascii()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


class Number(enum.IntEnum):
    SEVEN = 7


@pytest.mark.parametrize(
    ("given", "kept"),
    [(0, "0"), (-5, "-5"), (Number.SEVEN, "7"), ("", ""), ("ключ", "ключ"), (2**70, str(2**70))],
)
def test_an_id_is_text_and_a_zero_is_one(given, kept):
    assert Event(id=given).id == kept


def test_bytes_are_utf8_text():
    assert Event("né".encode()).data == "né"
    assert Event(bytearray(b"x")) == Event("x")


def test_data_may_be_any_object_and_stays_one_until_it_is_sent():
    price = {"value": 3}
    assert Event(data=price).data is price


def test_values_cannot_be_changed_after_they_were_checked():
    event = Event("x")
    with pytest.raises(AttributeError):
        event.id = "1\n2"
    with pytest.raises(AttributeError):
        Comment("x").text = "y"
    assert not hasattr(event, "__dict__")


@pytest.mark.parametrize("text", ["\ud800", 7])
def test_a_comment_must_be_text_that_utf8_can_hold(text):
    with pytest.raises(FramingError):
        Comment(text)
