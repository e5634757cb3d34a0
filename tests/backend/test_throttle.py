"""How often one caller may change something."""

from __future__ import annotations

import httpx
import pytest

from headwater.backend.throttle import Writes
from headwater.web.problems import Problem
from support.backend import cheap, running


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def refusal(writes: Writes, caller: str = "ann") -> str:
    """The seconds after which a refused caller may try again."""
    with pytest.raises(Problem, match="requests a second") as refused:
        writes.check(caller)
    assert refused.value.status_code == 429
    return refused.value.headers["Retry-After"]


class TestWrites:
    """One caller that writes without end keeps the others waiting; the body is not read first."""

    ENTRY = {"entries": [{"message": "m"}]}

    def test_twice_as_many_at_once_and_so_many_a_second(self, clock: Clock):
        writes = Writes(5, clock=clock)
        for _ in range(10):
            writes.check("ann")
        refusal(writes)
        writes.check("bob")
        clock.now = 0.2
        writes.check("ann")
        refusal(writes)
        assert writes.refused == 2

    def test_a_pause_of_any_length_earns_no_more_than_that(self, clock: Clock):
        writes = Writes(1, clock=clock)
        writes.check("ann")
        clock.now = 10_000
        for _ in range(2):
            writes.check("ann")
        refusal(writes)

    @pytest.mark.parametrize(("later", "wait"), [(0, "1"), (0.999, "1")])
    def test_a_wait_is_rounded_up(self, clock: Clock, later: float, wait: str):
        writes = Writes(1, clock=clock)
        for _ in range(2):
            writes.check("ann")
        clock.now = later
        assert refusal(writes) == wait

    def test_memory_is_bounded(self, clock: Clock):
        writes = Writes(5, max_callers=100, clock=clock)
        for number in range(1000):
            writes.check(str(number))
        assert len(writes) == 100

    def test_a_long_body_counts_like_several_requests(self, clock: Clock):
        """Its first 64 KiB are part of its request, and the largest body can always be sent."""
        kib = 1024
        writes = Writes(5, largest=256 * kib, clock=clock)
        writes.check_body("ann", 0, 63 * kib)
        writes.check_body("ann", 63 * kib, 64 * kib * 10)
        for more, now in ((0, 63), (64, 127)):
            writes.check_body("ann", more * kib, now * kib)
        with pytest.raises(Problem, match="more than 327680 bytes a second") as refused:
            writes.check_body("ann", 0, 64 * kib)
        assert refused.value.status_code == 429
        large = Writes(1, largest=100 * 1024 * kib, clock=clock)
        for _ in range(2):
            large.check_body("ann", 0, 100 * 1024 * kib)

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

    async def test_long_bodies_use_them_up_sooner(self, database):
        async with running(cheap(database, writes_per_second=5)) as world:
            ann, bob = await world.user("ann"), await world.user("bob")
            long = b"x" * 1024 * 1024
            found = [(await ann.client.post("/api/logs", content=long)).status_code]
            while found[-1] != 429:
                found.append((await ann.client.post("/api/logs", content=long)).status_code)
            assert 2 < len(found) < 10
            assert (await bob.client.post("/api/logs", content=long)).status_code == 422
