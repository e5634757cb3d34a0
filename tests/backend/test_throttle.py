"""Token buckets."""

from __future__ import annotations

import pytest

from headwater.backend.throttle import Throttle, whole_seconds


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_bucket_runs_dry_and_fills_up_again(clock: Clock):
    throttle = Throttle(3, 60, clock=clock)
    assert [throttle.take("a") for _ in range(3)] == [0, 0, 0]
    assert throttle.take("a") == pytest.approx(20)
    assert throttle.take("b") == 0
    clock.now = 20
    assert throttle.take("a") == 0
    assert throttle.take("a") == pytest.approx(20)


def test_it_never_holds_more_than_the_burst(clock: Clock):
    throttle = Throttle(2, 60, clock=clock)
    throttle.take("a")
    clock.now = 10_000
    assert [throttle.take("a") for _ in range(3)][:2] == [0, 0]
    assert throttle.take("a") > 0


def test_memory_is_bounded(clock: Clock):
    throttle = Throttle(5, 60, max_keys=100, clock=clock)
    for number in range(1000):
        throttle.take(str(number))
    assert len(throttle) == 100


def test_a_wait_is_rounded_up():
    assert whole_seconds(0.001) == "1"
    assert whole_seconds(2.1) == "3"
