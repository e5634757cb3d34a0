"""When a client comes back, and when it must not."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import ResponseError, SourceUnavailableError, UsageError
from headwater.protocol import Reconnect, Stop, Wait

# 2026-01-01 00:00:00 UTC
NEW_YEAR = 1_767_225_600.0


def machine(random=0.0, **options):
    return Reconnect(random=lambda: random, **options)


def lost(reconnect):
    return reconnect.lost("http://feed", "it ended")


@pytest.mark.parametrize(
    ("status", "content_type", "expected"),
    [
        (200, "text/event-stream", True),
        (200, "Text/Event-Stream ; charset=utf-8", True),
        (200, "application/json", False),
        (200, "", False),
        (200, "text/event-streams", False),
        (201, "text/event-stream", False),
        (500, "text/event-stream", False),
    ],
)
def test_only_a_200_event_stream_is_followed(status, content_type, expected):
    assert machine().accepts(status, content_type) is expected


def test_204_ends_it_in_good_order():
    assert machine().refused(204) == Stop(None)


@pytest.mark.parametrize("status", [201, 304, 400, 401, 403, 404, 406, 410, 422, 451])
def test_an_answer_that_will_not_change_stops_it(status):
    decision = machine().refused(status, detail="what the server said")
    assert isinstance(decision, Stop)
    assert isinstance(decision.error, ResponseError)
    assert decision.error.status == status
    assert str(decision.error) == f"HTTP {status}: what the server said"


def test_a_page_that_is_no_event_stream_stops_it_and_is_named():
    decision = machine().refused(200, content_type="text/html")
    assert isinstance(decision, Stop)
    assert "text/html" in str(decision.error)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_tried_again(status):
    decision = machine().refused(status, detail="busy")
    assert decision == Wait(2.0, f"HTTP {status}: busy")


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Wed, 31 Dec 2025 23:59:59 GMT", 0.0),
        ("Thu, 01 Jan 2026 01:00:30 +0100", 30.0),
        ("Thu, 01 Jan 2026 00:00:30 -0000", 30.0),
        ("9" * 5000, 86_400.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        ("soon", 2.0),
        ("-5", 2.0),
        ("", 2.0),
        ("Thu, 99 Jan 2026 00:00:30 GMT", 2.0),
        ("٣", 2.0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(status, retry_after, seconds):
    decision = machine().refused(status, retry_after=retry_after, now=NEW_YEAR)
    assert decision.seconds == seconds


def test_retry_after_means_nothing_on_another_status():
    assert machine().refused(500, retry_after="120").seconds == 2.0


def test_clients_that_were_all_told_the_same_retry_after_do_not_come_in_the_same_instant():
    early = machine(0.0).refused(503, retry_after="5")
    late = machine(0.999).refused(503, retry_after="5")
    assert early.seconds == 5.0
    assert late.seconds > 5.5


@given(st.text())
def test_any_retry_after_gives_a_time_that_can_be_waited(text):
    assert 0 <= machine().refused(503, retry_after=text, now=NEW_YEAR).seconds <= 86_400


def test_the_back_off_doubles_up_to_its_cap_and_jitter_takes_the_whole_range():
    low, high = machine(0.0), machine(1.0)
    waits = [(lost(low).seconds, lost(high).seconds) for _ in range(9)]
    ranges = [1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert waits == [(2.0, 2.0 + window) for window in ranges]


def test_a_received_event_resets_the_back_off():
    reconnect = machine(1.0)
    for _ in range(6):
        lost(reconnect)
    reconnect.received()
    assert lost(reconnect).seconds == 2.5
    assert lost(reconnect).seconds == 3.0


def test_a_stream_that_opens_but_brings_nothing_still_backs_off():
    reconnect = machine(1.0)
    waits = []
    for _ in range(4):
        assert reconnect.accepts(200, "text/event-stream")
        waits.append(lost(reconnect).seconds)
    assert waits == sorted(set(waits))


def test_a_stream_that_only_said_when_to_come_back_is_waited_for_as_long():
    """A server that stops answers 200, since browsers never come back from another status."""
    reconnect = machine(0.0)
    assert reconnect.lost("http://feed", "stopping", retry_after="7").seconds == 7.0
    reconnect.take_retry(9000)
    assert reconnect.lost("http://feed", "stopping", retry_after="7").seconds == 9.0
    assert reconnect.lost("http://feed", "stopping", retry_after="soon").seconds == 9.0
    reconnect.received()
    assert reconnect.lost("http://feed", "ended", retry_after="60").seconds == 9.0


def test_the_servers_retry_replaces_the_default_and_may_be_zero():
    reconnect = machine(0.0)
    reconnect.take_retry(7000)
    assert lost(reconnect).seconds == 7.0
    reconnect.take_retry(0)
    assert lost(reconnect).seconds == 0.0


def test_the_position_outlives_failures():
    reconnect = machine(last_event_id="7")
    lost(reconnect)
    reconnect.refused(503)
    assert reconnect.last_event_id == "7"


def test_it_gives_up_after_so_many_failures_in_a_row():
    reconnect = machine(give_up_after=2)
    assert isinstance(lost(reconnect), Wait)
    reconnect.received()
    assert isinstance(lost(reconnect), Wait)
    assert isinstance(lost(reconnect), Wait)
    decision = lost(reconnect)
    assert isinstance(decision, Stop)
    assert isinstance(decision.error, SourceUnavailableError)
    assert "http://feed" in str(decision.error)


def test_giving_up_on_a_server_in_trouble_tells_its_status():
    decision = machine(give_up_after=1).refused(503, detail="draining")
    assert isinstance(decision, Stop)
    assert isinstance(decision.error, ResponseError)


def test_ten_thousand_failures_do_not_overflow():
    reconnect = machine(1.0, cap=5.0)
    last = [lost(reconnect) for _ in itertools.repeat(None, 10_000)][-1]
    assert last.seconds == 7.0


@pytest.mark.parametrize(
    "options", [{"retry": -1}, {"spread": -1}, {"cap": -1}, {"give_up_after": 0}]
)
def test_times_that_cannot_be_are_refused(options):
    with pytest.raises(UsageError):
        machine(**options)
