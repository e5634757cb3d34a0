"""Token buckets."""

from __future__ import annotations

import pytest

from headwater.backend.auth.throttle import Throttle, network_of, whole_seconds


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
    throttle.give_back("a")
    throttle.give_back("a")
    assert [throttle.take("a") for _ in range(3)][:2] == [0, 0]
    assert throttle.take("a") > 0


def test_a_try_given_back_counts_as_none(clock: Clock):
    throttle = Throttle(1, 60, clock=clock)
    for _ in range(5):
        assert throttle.take("a") == 0
        throttle.give_back("a")
    assert len(throttle) == 0


def test_memory_is_bounded(clock: Clock):
    throttle = Throttle(5, 60, max_keys=100, clock=clock)
    for number in range(1000):
        throttle.take(str(number))
    assert len(throttle) == 100


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
        (None, "unknown"),
    ],
)
def test_one_client_is_one_network(address: str | None, network: str):
    """Whoever has a /64 has as many addresses as they like."""
    assert network_of(address) == network


def test_a_wait_is_rounded_up():
    assert whole_seconds(0.001) == "1"
    assert whole_seconds(2.1) == "3"
