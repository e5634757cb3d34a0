"""A feed where no stream comes through: its REST half is asked, and the stream tried again."""

import asyncio
import json

import pytest

import headwater.client
from headwater.client import Item, Removed, Reset, Snapshot
from headwater.client._feed_session import FeedSession
from headwater.errors import ResponseError
from headwater.protocol import Event, Stop, Wait, encode

URL = "http://h/api/logs?level=error"
STREAM = {"content-type": "text/event-stream"}


def page(position, *ids, **more):
    body = {"logs": [{"id": id} for id in ids], "start": "s", "position": position, **more}
    return json.dumps({"has_more": False, **body}).encode()


def block(event, data, id=None):
    return encode(Event(data, event=event, id=id))


class Feed:
    """A feed's session with a clock that the test moves."""

    def __init__(self, url=URL, **options):
        self.session = FeedSession(url, random=lambda: 0.0, **options)
        self.now = 0.0

    def request(self):
        return self.session.request(now=self.now)

    def answer(self, body, status=200, after=1.0, **headers):
        self.now += after
        decision = self.session.polled(status, headers, body, now=self.now, wall=0.0)
        return decision, list(iter(self.session.take, None))

    def silent(self):
        """A stream of which nothing comes through."""
        request = self.request()
        assert not request.polls
        self.now += request.first_byte_within
        return self.session.late()

    def stream(self, *blocks):
        assert not self.request().polls
        assert self.session.opened(200, STREAM)
        for each in blocks:
            self.session.feed(each)
        return list(iter(self.session.take, None))


def test_a_stream_that_brings_nothing_in_time_is_replaced_by_polls_at_once():
    feed = Feed(fallback=3.0)
    assert feed.silent() == Wait(0.0, "nothing came through the stream for 3 s; polling instead")
    first = feed.request()
    assert (first.polls, first.method, first.url) == (True, "GET", URL)
    assert dict(first.headers)[b"Accept"] == b"application/json"
    assert feed.session.polling
    _, values = feed.answer(page("p1", "1", has_more=True))
    assert values == [Snapshot("logs", [{"id": "1"}], "s", "p1", True)]
    assert feed.request().url == f"{URL}&after=p1&limit=100&wait=25"
    _, values = feed.answer(page("p3", "2", "3", removed=[{"id": "1"}]))
    assert values == [
        Removed("logs", {"id": "1"}, "p1"),
        Item("logs", {"id": "2"}, "p1"),
        Item("logs", {"id": "3"}, "p3"),
    ]


def test_the_position_moves_at_the_end_of_a_page_only():
    """A page has one position: to stop within it must not leave anything out."""
    feed = Feed(last_event_id="p1")
    feed.silent()
    feed.request()
    feed.session.polled(200, {}, page("p3", "2", "3"), now=1.0, wall=0.0)
    positions = []
    while feed.session.take() is not None:
        positions.append(feed.session.last_event_id)
    assert positions == ["p1", "p3"]


def test_the_stream_goes_on_where_the_polls_were_and_the_polls_where_the_stream_was():
    feed = Feed()
    assert feed.stream(b"retry: 0\n\n", block("log", {"id": "1"}, "p1"))[0].position == "p1"
    feed.session.lost("cut")
    feed.silent()
    assert "after=p1" in feed.request().url
    _, [item] = feed.answer(page("p2", "2"))
    assert item.event == "log"
    feed.now += 60
    request = feed.request()
    assert not request.polls
    assert dict(request.headers)[b"Last-Event-ID"] == b"p2"


def test_the_stream_is_tried_again_less_and_less_often_and_one_attempt_decides():
    feed = Feed(last_event_id="p1", fallback=1.0)
    feed.silent()
    pauses = []
    for _ in range(7):
        began = feed.now
        while feed.request().polls:
            feed.answer(page("p1"), after=10.0)
        pauses.append(feed.now - began)
        feed.now += 1.0
        feed.session.late()
    assert pauses == [60, 120, 240, 480, 900, 900, 900]


def test_a_stream_that_comes_through_again_stays():
    feed = Feed(last_event_id="p1")
    feed.silent()
    feed.request()
    feed.now += 60
    feed.stream(block("log", {"id": "2"}, "p2"))
    assert not feed.session.polling
    feed.session.lost("cut")
    assert not feed.request().polls


def test_streams_that_are_cut_or_refused_before_their_first_byte_count_three_times():
    feed = Feed(last_event_id="p1")
    for end in (
        lambda: feed.session.refused(502, {}, b"", now=0.0),
        lambda: feed.session.lost("reset"),
        lambda: feed.session.opened(200, STREAM) and feed.session.ended(now=0.0),
    ):
        assert not feed.request().polls
        end()
    assert feed.request().polls


def test_polls_that_a_server_does_not_hold_are_spread():
    feed = Feed(last_event_id="p1")
    feed.silent()
    feed.request()
    assert feed.answer(page("p1"), after=0.1) == (Wait(2.0, ""), [])
    feed.request()
    assert feed.answer(page("p1"), after=25.0) == (Wait(0.0, ""), [])


def test_a_position_that_is_gone_is_a_reset_and_a_snapshot():
    feed = Feed(last_event_id="p1")
    feed.silent()
    feed.request()
    assert feed.answer(b'{"reason": "expired"}', 410) == (Wait(0.0, ""), [Reset("expired")])
    assert feed.session.last_event_id == "p1"
    assert feed.request().url == URL
    _, [snapshot] = feed.answer(page("p9"))
    assert isinstance(snapshot, Snapshot)
    assert feed.session.last_event_id == "p9"


@pytest.mark.parametrize("status", [401, 403])
def test_without_a_right_the_polls_end(status):
    feed = Feed(last_event_id="p1")
    feed.silent()
    feed.request()
    decision, _ = feed.answer(b'{"detail": "no"}', status)
    assert isinstance(decision, Stop)
    assert isinstance(decision.error, ResponseError)
    assert decision.error.status == status


@pytest.mark.parametrize(
    ("status", "body"), [(404, b""), (405, b""), (200, b"<html>"), (200, b"[]"), (200, b"{}")]
)
def test_a_stream_without_a_rest_half_is_waited_for_again_and_never_polled(status, body):
    feed = Feed(last_event_id="p1")
    feed.silent()
    feed.request()
    decision, _ = feed.answer(body, status)
    assert isinstance(decision, Wait)
    for _ in range(5):
        request = feed.request()
        assert not request.polls
        assert request.first_byte_within is None
        feed.session.lost("cut")


def test_a_server_in_trouble_is_asked_by_both_ways_in_turn():
    feed = Feed(last_event_id="p1")
    feed.silent()
    kinds = []
    for _ in range(3):
        kinds.append(feed.request().polls)
        decision, _ = feed.answer(b"", 503, **{"retry-after": "7"})
        assert decision.seconds == 7.0
        kinds.append(feed.request().polls)
        feed.session.refused(503, {}, b"", now=0.0)
    kinds.append(feed.request().polls)
    feed.session.poll_lost("cut")
    kinds.append(feed.request().polls)
    assert kinds == [True, False] * 4


@pytest.mark.parametrize("options", [{"fallback": None}, {"method": "POST"}, {"reconnect": False}])
def test_one_that_must_not_poll_does_not(options):
    feed = Feed(**options)
    for _ in range(5):
        request = feed.request()
        assert not request.polls
        assert request.first_byte_within is None
        feed.session.late()


def test_a_position_in_the_address_is_where_polls_begin_too():
    feed = Feed("http://h/api/logs/stream?after=p7&level=error")
    assert feed.session.last_event_id == "p7"
    feed.silent()
    assert feed.request().url == "http://h/api/logs?level=error&after=p7&limit=100&wait=25"


async def test_behind_a_proxy_that_collects_answers_items_come_all_the_same(client, server):
    head = b"HTTP/1.1 200 X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"

    def rest(body):
        return [head % len(body), body]

    server.script([server.HOLD], rest(page("p1", "1")), rest(page("p2", "2")))
    server.script(server.answer(403))
    values, error, position = await client.values(server.url, fallback=0.1)
    assert [type(value) for value in values] == [Snapshot, Item]
    assert position == "p2"
    assert error.status == 403
    assert [seen.target for seen in server.seen] == [
        "/api/logs/stream",
        "/api/logs",
        "/api/logs?after=p1&limit=100&wait=25",
        "/api/logs?after=p2&limit=100&wait=25",
    ]


async def test_a_head_that_came_but_no_byte_of_the_body_is_silence_too(server):
    server.script([server.STREAM, server.HOLD], [server.STREAM, server.HOLD])
    async with headwater.client.follow(server.url, fallback=0.1) as feed:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(feed), 0.5)
        assert server.seen[1].target == "/api/logs"
        assert feed.polling
