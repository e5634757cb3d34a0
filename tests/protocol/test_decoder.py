"""The decoder against the standard, however the network cuts the bytes."""

import codecs
import itertools
import re
import time
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headwater.errors import EventTooLargeError, UsageError
from headwater.protocol import MAX_RETRY, Decoder, Message, decode_last_event_id


def decode(*chunks, **options):
    decoder = Decoder(**options)
    return [message for chunk in chunks for message in decoder.feed(chunk)]


def whole(wire, last_event_id=""):
    """The standard's text followed word by word on all of the stream at once."""
    text = codecs.decode(wire, "utf-8", "replace").removeprefix("\ufeff")
    lines = re.split("\r\n|\r|\n", text)[:-1]
    data, event, last = "", "", last_event_id
    messages, retry = [], None
    for line in lines:
        if line == "":
            if data:
                messages.append(Message(event or "message", data.removesuffix("\n"), last))
            data, event = "", ""
            continue
        if line.startswith(":"):
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            event = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            last = value
        elif field == "retry" and re.fullmatch("[0-9]+", value):
            retry = min(int(value), MAX_RETRY)
    return messages, retry


# The first six are the standard's own examples and its notes on them.
CASES = [
    (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10", "")]),
    (
        b": test stream\n\ndata: first event\nid: 1\n\n"
        b"data:second event\nid\n\ndata:  third event\n",
        [("message", "first event", "1"), ("message", "second event", "")],
    ),
    (b"data\n\ndata\ndata\n\ndata:", [("message", "", ""), ("message", "\n", "")]),
    (b"data:test\n\ndata: test\n\n", [("message", "test", "")] * 2),
    (
        b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n",
        [("add", "73857293", ""), ("remove", "2153", "")],
    ),
    (b"data: ends without a blank line\n", []),
    (b"\xef\xbb\xbfdata: bom\n\n", [("message", "bom", "")]),
    (b"\xef\xbb\xbf\xef\xbb\xbfdata: second bom is a field name\n\n", []),
    (b"\n\xef\xbb\xbfdata: not at the start\n\n", []),
    (b"\xef\xbbdata: no bom\n\ndata: x\n\n", [("message", "x", "")]),
    (b"data: \xff\xc3\ndata: \xe2\x82\n\n", [("message", "\ufffd\ufffd\n\ufffd", "")]),
    (b"data: a\rdata: b\r\ndata: c\n\r\n", [("message", "a\nb\nc", "")]),
    (b"data: a\r\r\ndata: b\r\r", [("message", "a", ""), ("message", "b", "")]),
    (b"data: a\n\n\r\n\r\n", [("message", "a", "")]),
    (
        b"data: u+2028 \xe2\x80\xa8 u+0085 \xc2\x85\n\n",
        [("message", "u+2028 \u2028 u+0085 \x85", "")],
    ),
    (b"id: 1\ndata: a\n\ndata: b\n\n", [("message", "a", "1"), ("message", "b", "1")]),
    (b"id: 1\n\ndata: a\n\n", [("message", "a", "1")]),
    (b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n", [("message", "a", "1"), ("message", "b", "1")]),
    (b"id: 1\ndata: a\n\nid:\ndata: b\n\n", [("message", "a", "1"), ("message", "b", "")]),
    (b"event: a\n\ndata: x\n\n", [("message", "x", "")]),
    (b"event: a\nevent:\ndata: x\n\n", [("message", "x", "")]),
    (b"event: a\nevent: b\ndata: x\n\n", [("b", "x", "")]),
    (b"data : x\nDATA: x\n data: x\ndata\0: x\n\n", []),
    (b": data: x\n:\n::\n\n", []),
    (b"data:: x\ndata::\n\n", [("message", ": x\n:", "")]),
    (b"data:\tx\n\n", [("message", "\tx", "")]),
    (b"data: a\0b\n\n", [("message", "a\0b", "")]),
]


@pytest.mark.parametrize(("wire", "expected"), CASES)
def test_a_stream_is_read_as_the_standard_says(wire, expected):
    messages = [Message(*fields) for fields in expected]
    assert decode(wire) == messages
    assert whole(wire)[0] == messages


@pytest.mark.parametrize(("wire", "expected"), CASES)
def test_a_stream_cut_into_single_bytes_or_in_two_anywhere_gives_the_same(wire, expected):
    messages = decode(wire)
    assert decode(*(wire[at : at + 1] for at in range(len(wire)))) == messages
    for at in range(len(wire) + 1):
        assert decode(wire[:at], b"", wire[at:]) == messages


@pytest.mark.parametrize(
    ("value", "retry"),
    [
        (b"2000", 2000),
        (b"0", 0),
        (b"007", 7),
        (b"9" * 9000, MAX_RETRY),
        (b"0" * 9000 + b"5", 5),
        (b"", None),
        (b"-1", None),
        (b"+1", None),
        (b"1.5", None),
        (b" 1", None),
        (b"1 ", None),
        (b"1_0", None),
        ("٣".encode(), None),
        (b"1\0", None),
    ],
)
def test_only_ascii_digits_are_a_retry(value, retry):
    decoder = Decoder()
    decoder.feed(b"retry: " + value + b"\n")
    assert decoder.retry == retry


def test_an_event_is_out_as_soon_as_its_last_byte_is_in_also_a_cr():
    decoder = Decoder()
    assert decoder.feed(b"data: a\r") == []
    assert decoder.feed(b"\r") == [Message("message", "a", "")]
    assert decoder.feed(b"\ndata: b\n\n") == [Message("message", "b", "")]


def test_the_position_moves_when_the_block_ends_and_not_before():
    """A client that is cut inside an event must ask for that event again."""
    decoder = Decoder(last_event_id="1")
    decoder.feed(b"id: 2\ndata: x\n")
    assert decoder.last_event_id == "1"
    decoder.feed(b"\n")
    assert decoder.last_event_id == "2"
    decoder.feed(b"id: 3\n\n")
    assert decoder.last_event_id == "3"


def test_the_position_of_the_connection_before_is_kept():
    assert decode(b"data: x\n\n", last_event_id="7") == [Message("message", "x", "7")]


LINES = [
    "data", "data:", "data: a", "data:  b", "data:é", "id", "id: 1", "id:2\0", "event: e", "event",
    "retry: 5", "retry: x", ": c", "other: x", "\ufeff", "", "", "",
]  # fmt: skip
likely_lines = st.lists(
    st.tuples(st.sampled_from(LINES), st.sampled_from(["\n", "\r", "\r\n"])), max_size=30
).map(lambda pairs: "".join(itertools.chain.from_iterable(pairs)).encode())
noise = st.lists(
    st.sampled_from([b"\r", b"\n", b":", b" ", b"data", b"id", b"\0", b"\xef\xbb\xbf", b"\xe2"])
    | st.binary(max_size=3)
).map(b"".join)
wires = st.tuples(st.sampled_from([b"", b"\xef\xbb\xbf", b"\xef\xbb"]), likely_lines | noise).map(
    b"".join
)


@st.composite
def cut(draw, wires):
    wire = draw(wires)
    places = draw(st.lists(st.integers(0, len(wire)), max_size=20).map(sorted))
    return [wire[start:end] for start, end in itertools.pairwise([0, *places, len(wire)])]


@given(cut(wires), st.sampled_from(["", "before"]))
@example([b"data: x\r", b"", b"\n", b"\n"], "")
def test_any_bytes_in_any_pieces_give_what_the_standard_gives_on_the_whole(chunks, before):
    decoder = Decoder(last_event_id=before)
    messages = [message for chunk in chunks for message in decoder.feed(chunk)]
    expected, retry = whole(b"".join(chunks), before)
    assert messages == expected
    assert decoder.retry == retry


@given(cut(wires), st.integers(1, 40))
def test_with_a_small_bound_garbage_gives_messages_and_then_one_documented_error(chunks, bound):
    """The same messages come before the error, however the bytes are cut."""

    def outcome(chunks):
        decoder = Decoder(max_event_bytes=bound)
        messages, failed = [], False
        try:
            for chunk in [*chunks, b""]:
                messages += decoder.feed(chunk)
        except EventTooLargeError as error:
            assert error.limit == bound
            failed = True
        return messages, failed

    assert outcome(chunks) == outcome([b"".join(chunks)])


@pytest.mark.parametrize(
    ("wire", "size"),
    [
        (b"data: 12345678\n\n", 14),  # a line is counted whole
        (b"data:1\ndata:2\ndata:3\n\n", 10),  # and what is kept of the lines before it
        (b"data\ndata\ndata\n\n", 6),
        (b":" + b"x" * 20 + b"\n", 21),  # a comment is held until it ends
    ],
)
def test_the_bound_is_exact(wire, size):
    decode(wire, max_event_bytes=size)
    with pytest.raises(EventTooLargeError):
        decode(wire, max_event_bytes=size - 1)
    with pytest.raises(EventTooLargeError):
        decode(*(wire[at : at + 1] for at in range(len(wire))), max_event_bytes=size - 1)


def test_the_bound_is_for_one_event_not_for_the_stream():
    wire = b": comment\ndata: 1234567\n\n"
    assert len(decode(*[wire] * 100, max_event_bytes=14)) == 100
    assert decode(b": only heartbeats\n" * 100, max_event_bytes=20) == []


def test_an_event_before_the_one_too_large_is_not_lost():
    decoder = Decoder(max_event_bytes=10)
    assert decoder.feed(b"data: a\n\ndata: " + b"b" * 10) == [Message("message", "a", "")]
    for _ in range(2):
        with pytest.raises(EventTooLargeError, match="10 bytes"):
            decoder.feed(b"\n\ndata: c\n\n")


def test_a_bound_of_nothing_is_refused():
    with pytest.raises(UsageError):
        Decoder(max_event_bytes=0)


def test_what_is_held_never_passes_the_bound():
    bound = 100_000
    chunk = b"data: " + b"x" * 1000 + b"\n"
    tracemalloc.start()
    try:
        decoder = Decoder(max_event_bytes=bound)
        with pytest.raises(EventTooLargeError):
            for _ in range(1000):
                decoder.feed(chunk)
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A growing byte array takes an eighth more than its bytes, and twice of it while it moves.
    assert most < 3 * bound
    assert held < bound / 10


def processor_time(chunk, count, end=b""):
    best = float("inf")
    for _ in range(3):
        decoder = Decoder()
        start = time.process_time()
        for _ in range(count):
            decoder.feed(chunk)
        decoder.feed(end)
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize(
    ("chunk", "count"), [(b"x" * 16, 16_000), (b"data:x\n", 16_000), (b"data\n" * 16, 1_000)]
)
def test_time_is_linear_in_the_bytes_however_small_the_chunks(chunk, count):
    """Eight times the bytes took 64 times as long when each chunk was joined to all before it."""
    ratio = processor_time(chunk, 8 * count, b"\n\n") / processor_time(chunk, count, b"\n\n")
    assert ratio < 32


@pytest.mark.parametrize(
    ("raw", "position"),
    [
        (b"", None),
        (b"1.a.b", "1.a.b"),
        ("ключ".encode(), "ключ"),
        (b"caf\xe9", "caf\ufffd"),
        (b"0", "0"),
    ],
)
def test_a_last_event_id_header_is_utf8(raw, position):
    assert decode_last_event_id(raw) == position


@given(st.binary())
def test_any_last_event_id_header_gives_text_that_can_be_encoded_again(raw):
    found = decode_last_event_id(raw)
    assert found is None or found.encode()
