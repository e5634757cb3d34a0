"""Token buckets."""

from __future__ import annotations

import httpx
import pytest

from headwater.backend.throttle import Throttle, Writes, whole_seconds
from headwater.web.problems import Problem
from support.backend import cheap, running


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


class TestWrites:
    """One caller that writes without end keeps the others waiting; the body is not read first."""

    ENTRY = {"entries": [{"message": "m"}]}

    def test_twice_as_many_at_once_and_so_many_a_second(self, clock: Clock):
        writes = Writes(5, clock=clock)
        for _ in range(10):
            writes.check("ann")
        with pytest.raises(Problem, match="5 requests a second") as refused:
            writes.check("ann")
        assert refused.value.status_code == 429
        writes.check("bob")
        clock.now = 0.2
        writes.check("ann")
        with pytest.raises(Problem):
            writes.check("ann")
        assert writes.refused == 2

    async def refused(self, call) -> httpx.Response:
        """The first answer that is a refusal; time goes on meanwhile."""
        for number in range(500):
            answer = await call()
            if answer.status_code == 429:
                assert number >= 10
                return answer
        raise AssertionError("never refused")

    async def test_each_caller_has_so_many(self, database):
        async with running(cheap(database, writes_per_second=5)) as world:
            ann, bob = await world.user("ann"), await world.user("bob")
            answer = await self.refused(lambda: ann.client.post("/api/logs", json=self.ENTRY))
            assert answer.headers["retry-after"] == "1"
            assert (await ann.client.get("/api/logs")).status_code == 200
            assert (await bob.client.post("/api/logs", json=self.ENTRY)).status_code == 201
            text = (await world.anyone.get("/metrics")).text
            assert "headwater_writes_throttled_total 1.0" in text

    async def test_strangers_have_so_many_too(self, database):
        async with running(cheap(database, writes_per_second=5)) as world:
            await self.refused(lambda: world.anyone.post("/api/auth/login", content=b"{"))
