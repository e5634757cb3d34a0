"""The demo's inventions are what a satellite could have measured, and a service could say."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from headwater.backend.demo.lines import incident, line
from headwater.backend.demo.walk import Walk

START = datetime(2026, 6, 1, tzinfo=UTC)


def test_metrics_wander_within_their_bounds():
    walk = Walk(random.Random(1), hour=14)
    steps = [walk.step(START + timedelta(minutes=5 * n)) for n in range(2000)]
    assert all(0 <= step.cpu_percent <= 100 for step in steps)
    assert all(0 < step.memory_mb < 4000 for step in steps)
    assert all(step.errors_per_s <= step.requests_per_s for step in steps)
    assert len({step.cpu_percent for step in steps}) > 100


def test_the_day_shows():
    walk = Walk(random.Random(2), hour=14)
    busy = [walk.step(START + timedelta(days=d, hours=14)).cpu_percent for d in range(60)]
    quiet = [walk.step(START + timedelta(days=d, hours=2)).cpu_percent for d in range(60)]
    assert sum(busy) > 1.5 * sum(quiet)


def test_trouble_shows_and_passes():
    walk = Walk(random.Random(3), hour=14)
    before = walk.step(START)
    walk.strain(2)
    during = walk.step(START)
    for _ in range(200):
        after = walk.step(START)
    assert during.errors_per_s > 5 * max(before.errors_per_s, after.errors_per_s)


def test_lines_are_complete():
    draw = random.Random(4)
    lines = [line(draw) for _ in range(2000)]
    assert all("{" not in one.message for one in lines)
    assert {one.level for one in lines} == {"debug", "info", "warning", "error", "critical"}
    assert len({one.source for one in lines}) > 4


def test_an_incident_ends_well():
    for seed in range(50):
        source, lines = incident(random.Random(seed))
        assert {one.source for one in lines} == {source}
        assert (lines[0].level, lines[-1].level) == ("warning", "info")
        assert all("{" not in one.message for one in lines)
