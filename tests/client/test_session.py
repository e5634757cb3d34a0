"""The decisions of a client, without a network."""

import pytest

from headwater.client._headers import bearer
from headwater.client._session import Session, problem_detail
from headwater.errors import EventTooLargeError, UsageError
from headwater.protocol import Wait

URL = "http://feed.example/stream"


def session(**options):
    return Session(URL, random=lambda: 1.0, **options)


@pytest.mark.parametrize("token", ["", "a b", "key\n", "clé"])
def test_a_token_that_would_break_its_header_is_refused_and_not_shown(token):
    with pytest.raises(UsageError) as caught:
        bearer(token)
    assert token == "" or token not in str(caught.value)


STREAM = {"content-type": "text/event-stream"}


def fed(subject, wire):
    """What a reader takes of these bytes."""
    subject.feed(wire)
    return list(iter(subject.take, None))


def waits(subject, wire, times):
    seconds = []
    for _ in range(times):
        assert subject.opened(200, STREAM)
        fed(subject, wire)
        seconds.append(subject.lost("ended").seconds)
    return seconds


def test_a_server_that_fails_at_once_each_time_is_asked_less_and_less_often():
    wire = b'event: error\ndata: {"status": 500}\n\n'
    seconds = waits(session(), wire, 3)
    assert seconds == [3.0, 4.0, 6.0]


def test_a_server_that_brings_events_is_asked_again_soon():
    assert waits(session(), b"data: x\n\n", 3) == [2.5, 2.5, 2.5]


def test_a_block_that_only_moves_the_position_counts_as_an_event():
    subject = session()
    assert waits(subject, b"id: 1\n\n", 1) == [2.5]
    assert subject.last_event_id == "1"


def test_heartbeats_alone_do_not():
    assert waits(session(), b": heartbeat\n\n", 2) == [3.0, 4.0]


def test_the_servers_retry_is_kept_across_connections():
    subject = session()
    assert waits(subject, b"retry: 7000\n\ndata: x\n\n", 1) == [7.5]
    assert waits(subject, b"data: x\n\n", 1) == [7.5]


def test_the_half_of_an_event_that_a_dead_connection_left_is_not_joined_to_the_next():
    subject = session(last_event_id="7")
    assert subject.opened(200, STREAM)
    assert fed(subject, b"data: half") == []
    assert subject.opened(200, STREAM)
    [message] = fed(subject, b"data: whole\n\n")
    assert (message.data, message.last_event_id) == ("whole", "7")


def test_an_event_over_the_bound_is_told_although_no_more_bytes_come():
    subject = session(max_event_bytes=20)
    assert subject.opened(200, STREAM)
    [message] = fed(subject, b"data: small\n\ndata: " + b"x" * 20)
    assert message.data == "small"
    with pytest.raises(EventTooLargeError):
        subject.check()
    with pytest.raises(EventTooLargeError):
        subject.feed(b"")


def test_people_are_told_before_each_wait():
    told = []
    subject = session(on_wait=told.append)
    decision = subject.refused(
        503, {"retry-after": "9"}, b'{"detail": "the server is stopping"}', now=0.0
    )
    assert isinstance(decision, Wait)
    assert decision.seconds == 10.0
    assert told == [decision]
    assert decision.cause == "HTTP 503: the server is stopping"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"detail": "no"}', "no"),
        (b'{"title": "No", "detail": {}}', "No"),
        (b"[" * 100_000, "[" * 200),
        (b"Bad Gateway\nmore", "Bad Gateway"),
        (b"Bad Gateway\r\nmore", "Bad Gateway"),
        (b"<html>\r\n<head><title>502 Bad\r\n Gateway</title></head>", "502 Bad Gateway"),
        (b"<!doctype html><TITLE lang=en>A &amp; B</TITLE>", "A & B"),
        (b"<html><body>no", "<html><body>no"),
        (b"\xff", "\ufffd"),
        (b"", ""),
    ],
)
def test_what_an_error_body_says(body, detail):
    assert problem_detail(body) == detail
