"""The bytes of each block, literally: clients in other languages read them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import EncodingError, FramingError
from headwater.protocol import HEARTBEAT, Comment, Decoder, Event, Message, encode, frame


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (Event(retry=2000), "retry: 2000\n\n"),
        (Event(retry=0), "retry: 0\n\n"),
        (Event(id=0), "id: 0\n\n"),
        (Event(id=""), "id: \n\n"),
        (Event(""), "data: \n\n"),
        (Event("a"), "data: a\n\n"),
        (Event(" a"), "data:  a\n\n"),
        (Event("a\nb"), "data: a\ndata: b\n\n"),
        (Event("a\r\nb\rc\n"), "data: a\ndata: b\ndata: c\ndata: \n\n"),
        (Event("a\u2028b\x0bc\x85"), "data: a\u2028b\x0bc\x85\n\n"),
        (Event("x", event="log", id="7", retry=1), "event: log\nid: 7\nretry: 1\ndata: x\n\n"),
        (Event({"é": [1, None]}, event="log"), 'event: log\ndata: {"é":[1,null]}\n\n'),
        (Event([]), "data: []\n\n"),
        (Event(0), "data: 0\n\n"),
        (Event(False), "data: false\n\n"),
        (Comment(), ": \n\n"),
        (Comment("heartbeat"), HEARTBEAT.decode()),
        (Comment("a\r\ndata: b\rc"), ": a\n: data: b\n: c\n\n"),
    ],
)
def test_the_block_of_a_value(value, wire):
    assert encode(value) == wire.encode()


def test_a_serializer_of_ones_own_writes_the_data_but_text_is_left_alone():
    assert encode(Event({"a": 1}), serializer=repr) == b"data: {'a': 1}\n\n"
    assert encode(Event("a"), serializer=repr) == b"data: a\n\n"
    assert encode(Event({"a": 1}), serializer=lambda _: "x\ny") == b"data: x\ndata: y\n\n"


def test_a_serializer_cannot_break_the_framing():
    with pytest.raises(FramingError, match="lone surrogate"):
        encode(Event(["\ud800"]))
    with pytest.raises(EncodingError, match="bytes"):
        encode(Event([1]), serializer=lambda _: b"[1]")


def test_a_ready_line_is_framed_as_the_event_would_be():
    data = '{"é":1}'
    assert frame("log", "1.a", data.encode()) == encode(Event(data, event="log", id="1.a"))
    assert frame(None, None, b"") == encode(Event(""))


@pytest.mark.parametrize(
    "values",
    [
        ("log", "1", b"{\n}"),
        ("log", "1", b"{\r}"),
        ("log\n", "1", b""),
        ("", "1", b""),
        ("log", "1\n", b""),
        ("log", "\0", b""),
    ],
)
def test_a_ready_line_that_is_none_is_refused(values):
    with pytest.raises(FramingError):
        frame(*values)


unicode_text = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\r\n: \ufeff"))
no_line_end = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"))
names = no_line_end.filter(bool)
ids = no_line_end.map(lambda text: text.replace("\0", ""))


@given(unicode_text, st.none() | names, st.none() | ids, st.none() | st.integers(0, 2**31 - 1))
def test_decode_of_encode_gives_the_same_text_with_lf(data, event, id, retry):
    decoder = Decoder(last_event_id="before")
    messages = decoder.feed(encode(Event(data, event, id, retry)))
    logical = data.replace("\r\n", "\n").replace("\r", "\n")
    last = "before" if id is None else id
    assert messages == [Message(event or "message", logical, last)]
    assert decoder.retry == retry
    assert decoder.last_event_id == last


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | unicode_text,
    lambda inner: st.lists(inner) | st.dictionaries(unicode_text, inner),
)  # fmt: skip


@given(json_values.filter(lambda value: value is not None and not isinstance(value, str)))
def test_json_survives_exactly_also_carriage_returns(value):
    [message] = Decoder().feed(encode(Event(value)))
    assert json.loads(message.data) == value


@given(unicode_text)
def test_a_comment_is_never_an_event(text):
    decoder = Decoder()
    assert decoder.feed(encode(Comment(text))) == []
    assert decoder.feed(b"data: next\n\n") == [Message("message", "next", "")]
