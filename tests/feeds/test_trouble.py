"""Clients come back later the longer an item cannot be shown, and the log is not flooded."""

from __future__ import annotations

import pytest

from headwater.errors import DeclarationError, UnfitItemError
from headwater.feeds import Change, Feed
from headwater.feeds._trouble import LONGEST_RETRY, MOST_TROUBLES, Troubles


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_age_grows_until_the_item_can_be_shown(caplog):
    clock = Clock()
    troubles = Troubles("things", clock)
    assert troubles.met("the item id=1", "bad", skipped=False) == 0
    clock.now = 50.0
    assert troubles.met("the item id=1", "bad", skipped=False) == 50_000
    assert len(caplog.records) == 1
    clock.now = 61.0
    troubles.met("the item id=1", "bad", skipped=False)
    assert len(caplog.records) == 2
    troubles.over("the item id=1")
    assert not troubles.known
    assert troubles.met("the item id=1", "bad", skipped=False) == 0


def test_the_longest_known_is_forgotten():
    clock = Clock()
    troubles = Troubles("things", clock)
    for number in range(MOST_TROUBLES + 1):
        troubles.met(str(number), "bad", skipped=False)
    clock.now = 1.0
    assert troubles.met("0", "bad", skipped=False) == 0
    assert troubles.met(str(MOST_TROUBLES), "bad", skipped=False) == 1000


def test_a_client_comes_back_within_a_minute(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("headwater.feeds._trouble.time.monotonic", clock)

    def encode(_: object) -> bytes:
        raise ValueError("the values")

    feed = Feed("things", encode=encode)
    object.__setattr__(feed, "troubles", Troubles("things", clock))
    retries = []
    for clock.now in (0.0, 5.0, 30.0, 600.0):
        with pytest.raises(UnfitItemError) as caught:
            feed.data(Change(None, {}, {"n": 1}))
        retries.append(caught.value.retry)
        assert "the values" not in str(caught.value)
    assert retries == [2000, 5000, 30_000, LONGEST_RETRY]


def test_a_feed_waits_or_skips():
    with pytest.raises(DeclarationError, match="on_invalid='drop' must be 'hold' or 'skip'"):
        Feed("things", on_invalid="drop")
