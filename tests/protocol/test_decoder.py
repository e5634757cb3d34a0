"""The decoder against the standard, however the network cuts the bytes."""

import base64
import codecs
import itertools
import json
import re
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headwater.errors import EventTooLargeError, PeerError, UsageError
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


def vectors():
    path = Path(__file__).parents[2] / "clients" / "vectors.json"
    return {vector["name"]: vector for vector in json.loads(path.read_text("ascii"))}


VECTORS = vectors()
each_vector = pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)


def bytes_of(vector):
    if "text" in vector:
        return vector["text"].encode()
    return base64.b64decode(vector["base64"], validate=True)


def outcome(chunks, before=""):
    """What a vector's fields say of a stream that arrives in these pieces."""
    decoder = Decoder(last_event_id=before)
    messages = [message for chunk in chunks for message in decoder.feed(chunk)]
    events = [
        {"event": message.event, "data": message.data, "lastEventId": message.last_event_id}
        for message in messages
    ]
    return {"events": events, "lastEventId": decoder.last_event_id, "retry": decoder.retry}


def expected_of(vector):
    return {name: vector[name] for name in ("events", "lastEventId", "retry")}


def test_the_shared_vectors_are_fifty_or_more():
    assert len(VECTORS) >= 50


@each_vector
def test_a_stream_of_the_shared_file_is_read_as_it_says(vector):
    """The file is for clients in all languages, so the standard's text must agree with it."""
    wire, before = bytes_of(vector), vector.get("before", "")
    assert outcome([wire], before) == expected_of(vector)
    messages, retry = whole(wire, before)
    assert [[m.event, m.data, m.last_event_id] for m in messages] == [
        list(event.values()) for event in vector["events"]
    ]
    assert retry == vector["retry"]


@each_vector
def test_a_stream_of_the_shared_file_cut_anywhere_gives_the_same(vector):
    wire, before = bytes_of(vector), vector.get("before", "")
    expected = expected_of(vector)
    assert outcome([wire[at : at + 1] for at in range(len(wire))], before) == expected
    for at in range(len(wire) + 1):
        assert outcome([wire[:at], b"", wire[at:]], before) == expected


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


def test_a_message_gives_its_data_as_json():
    [message] = decode(b'event: log\ndata: {"n":\ndata: [1, null]}\n\n')
    assert message.json() == {"n": [1, None]}


@pytest.mark.parametrize("data", [b"", b"{", b"text", b"[" * 100_000])
def test_data_that_is_no_json_is_the_peers_fault_and_names_the_event(data):
    [message] = decode(b"event: log\ndata: " + data + b"\n\n")
    with pytest.raises(PeerError, match="'log' event is not JSON"):
        message.json()


def test_the_start_of_the_last_comment_is_kept_for_people():
    decoder = Decoder()
    assert decoder.comment == ""
    decoder.feed(b": one\n:two \xff\n")
    assert decoder.comment == "two \ufffd"
    decoder.feed(b":" + b"x" * 1000 + b"\ndata: y\n\n")
    assert decoder.comment == "x" * 199


def test_a_bound_of_nothing_is_refused():
    with pytest.raises(UsageError):
        Decoder(max_event_bytes=0)


def test_memory_stays_within_the_bound_also_after_the_error():
    piece = b"data: " + b"x" * 10_000 + b"\n"
    decoder = Decoder(max_event_bytes=1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(EventTooLargeError):
            for _ in range(1_000):
                decoder.feed(piece)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A growing byte array reserves an eighth more than it holds, and moves once in a while.
    assert peak < 3_000_000
    assert now < 100_000


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
