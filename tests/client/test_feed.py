"""A feed as typed values, alone and over a connection."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.client import Item, Message, Removed, Reset, Snapshot, stream_url
from headwater.client._feed import read_feed
from headwater.errors import ResponseError
from headwater.protocol import Event, encode

PAGE = {"logs": [{"id": "1"}], "start": "p0", "position": "p1", "has_more": True}


def block(event, data, id=None):
    return encode(Event(data, event=event, id=id))


async def test_a_feed_is_followed_from_its_rest_address_across_a_cut(client, server):
    server.script(
        server.stream(
            b"retry: 0\n\n",
            block("snapshot", PAGE, "p1"),
            block("log", {"id": "2"}, "p2"),
            block("error", {"status": 500}),
        ),
        server.stream(block("log_removed", {"id": "1"}, "p3")),
        server.stream(block("reset", {"reason": "expired"}), block("snapshot", PAGE, "p1")),
    )
    address = server.url.replace("/stream", "?level=error")
    values, error, position = await client.values(address, token="key")
    snapshot = Snapshot("logs", [{"id": "1"}], "p0", "p1", True)
    assert error is None
    assert values == [
        snapshot,
        Item("log", {"id": "2"}, "p2"),
        Removed("log", {"id": "1"}, "p3"),
        Reset("expired"),
        snapshot,
    ]
    assert {seen.target for seen in server.seen} == {"/api/logs/stream?level=error"}
    assert server.seen[1].headers["last-event-id"] == b"p2"
    assert position == "p1"


@pytest.mark.parametrize("status", [401, 403])
async def test_a_right_that_was_lost_ends_it(client, server, status):
    server.script(
        server.stream(block("log", {"id": "1"}, "p1"), block("error", {"status": status})),
        server.answer(200),
    )
    values, error, _ = await client.values(server.url)
    assert len(values) == 1
    assert isinstance(error, ResponseError)
    assert error.status == status
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("event", "data"),
    [
        ("log", "not json"),
        ("log", "[1]"),
        ("log", "[" * 100_000),
        ("snapshot", "{}"),
        ("snapshot", '{"logs": []}'),
        ("snapshot", '{"logs": [], "more": [], "position": "p"}'),
        ("snapshot", '{"logs": [], "position": 7}'),
    ],
)
def test_what_is_no_feed_is_the_peers_fault_and_named(event, data):
    with pytest.raises(ResponseError, match=event):
        read_feed(Message(event, data, ""))


names = st.sampled_from(["logs", "position", "status", "reason", "start", "has_more", "detail"])
anything = st.none() | st.integers() | st.text() | st.lists(st.none()) | st.just({})
json_objects = st.dictionaries(names, anything)


@given(
    st.sampled_from(["snapshot", "reset", "error", "log", "log_removed", "_removed"]),
    json_objects.map(json.dumps) | st.text(),
)
def test_any_message_gives_a_value_or_the_documented_error(event, data):
    try:
        value = read_feed(Message(event, data, "p"))
    except ResponseError:
        return
    assert value is None or isinstance(value, (Snapshot, Item, Removed, Reset))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h/api/logs", "http://h/api/logs/stream"),
        ("http://h/api/logs/", "http://h/api/logs/stream"),
        ("http://h/api/logs/stream", "http://h/api/logs/stream"),
        ("http://h/api/logs/stream/?a=b", "http://h/api/logs/stream?a=b"),
        ("http://h/api/logs?a=b#c", "http://h/api/logs/stream?a=b"),
        ("http://h/api/livestream", "http://h/api/livestream/stream"),
    ],
)
def test_the_stream_of_a_feed_is_found_from_either_half(url, expected):
    assert stream_url(url) == expected
