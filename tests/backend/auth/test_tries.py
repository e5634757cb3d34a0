"""How often a sign-in may be tried, where from, and who is not kept waiting by whom."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select

from headwater.backend.auth.passwords import Passwords
from headwater.backend.auth.places import Places
from headwater.backend.auth.tries import Bucket, Tries
from headwater.backend.models import SignInBucket, SignInPlace
from headwater.errors import SourceUnavailableError
from headwater.web.problems import Problem
from support.backend import PASSWORD, World, cheap, running
from support.until import until

TRIES = 10  # of one account, in a minute


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def from_(world: World):
    """A client at an address, with cookies of its own."""
    async with AsyncExitStack() as stack:

        async def made(address: str, on: World = world) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(on.app, client=(address, 1234))
            client = httpx.AsyncClient(transport=transport, base_url="http://test")
            return await stack.enter_async_context(client)

        yield made


async def tried(client, email="ann@example.com", password="not it", **options):
    body = {"email": email, "password": password}
    return await client.post("/api/auth/login", json=body, **options)


async def use_up(from_, email="ann@example.com", **options) -> None:
    """A stranger tries passwords from many addresses until there are no more tries."""
    for number in range(TRIES + 1):
        client = await from_(f"203.0.113.{number}", **options)
        found = (await tried(client, email)).status_code
        assert found == (401 if number < TRIES else 429)


async def test_a_bucket_runs_dry_and_fills_up_again(world: World):
    clock = Clock()
    tries, a, b = Tries(world.backend.database, clock=clock), Bucket("a", 3), Bucket("b", 3)
    assert [await tries.take([a]) for _ in range(3)] == [0, 0, 0]
    assert await tries.take([a]) == pytest.approx(20, abs=0.1)
    assert await tries.take([b]) == 0
    # Nothing of the others is used up when one is empty.
    for _ in range(5):
        assert await tries.take([a, b]) > 0
    assert [await tries.take([b]) for _ in range(2)] == [0, 0]
    clock.now += 20.1
    assert await tries.take([a]) == 0
    assert await tries.take([a]) > 0


async def test_a_bucket_never_holds_more_than_its_burst(world: World):
    clock = Clock()
    tries, bucket = Tries(world.backend.database, clock=clock), Bucket("a", 2)
    await tries.take([bucket])
    clock.now += 10_000
    async with world.backend.database.write() as session:
        for _ in range(5):
            await tries.give_back(session, [bucket])
    assert [await tries.take([bucket]) for _ in range(2)] == [0, 0]
    assert await tries.take([bucket]) > 0


async def test_a_clock_that_is_set_back_locks_nobody_out(world: World):
    """Tries were noted at a time that is now far ahead, in the database and in memory."""
    clock = Clock()
    bucket = Bucket("a", 3)
    here, elsewhere = (Tries(world.backend.database, clock=clock) for _ in range(2))
    while not await here.take([bucket]):
        pass
    clock.now -= 3600
    assert here.wait(bucket) == 0
    assert [await each.take([bucket]) for each in (here, elsewhere, here)] == [0, 0, 0]
    assert await elsewhere.take([bucket]) == pytest.approx(20, abs=0.1)


async def no_room(*_, **__):
    raise Problem(503, "Too many are signing in just now; try again.")


async def away(*_, **__):
    raise SourceUnavailableError("The database", "away")


@pytest.mark.parametrize(("where", "fails"), [(Passwords, no_room), (Places, away)])
async def test_a_sign_in_without_a_verdict_costs_no_try(
    world: World, ann, from_, monkeypatch: pytest.MonkeyPatch, where, fails
):
    """Nobody is locked out for trying again until there is an answer."""
    client = await from_("198.51.100.6")
    with monkeypatch.context() as patched:
        patched.setattr(where, "verify" if where is Passwords else "remember", fails)
        for _ in range(2 * TRIES):
            assert (await tried(client, password=PASSWORD)).status_code == 503
    # No try more than there were: wrong ones still count.
    statuses = [(await tried(client)).status_code for _ in range(TRIES + 1)]
    assert statuses == [401] * TRIES + [429]


async def test_processes_share_the_tries(world: World, ann, settings, from_):
    """Nobody gets twice as many by asking two workers."""
    async with running(cheap(Path(), database=settings.database)) as other:
        worlds = [world, other]
        statuses = [
            (await tried(await from_(f"203.0.113.{n}", worlds[n % 2]))).status_code
            for n in range(TRIES + 2)
        ]
        assert statuses == [401] * TRIES + [429] * 2


async def test_an_owners_device_does_not_wait_for_strangers(world: World, ann, from_):
    device = await from_("198.51.100.1")
    assert (await tried(device, password=PASSWORD)).status_code == 200
    await use_up(from_)
    elsewhere = await from_("198.51.100.77")
    elsewhere.cookies.set("device", device.cookies["device"])
    assert (await tried(elsewhere, password=PASSWORD)).status_code == 200


async def test_an_owners_network_does_not_wait_for_strangers(world: World, ann, from_):
    assert (await tried(await from_("2001:db8:1:2::1"), password=PASSWORD)).status_code == 200
    await use_up(from_)
    assert (await tried(await from_("2001:db8:1:2::ffff"), password=PASSWORD)).status_code == 200
    # Another /64 is another network.
    assert (await tried(await from_("2001:db8:1:3::1"), password=PASSWORD)).status_code == 429


async def test_a_device_does_not_wait_for_others_in_its_network(database):
    """Behind one address there may be many, and one of them may try passwords."""
    async with running(cheap(database, login_tries_per_address=5)) as world:
        ann = await world.user("ann")
        stranger = world.client()
        while (await tried(stranger, "someone@example.com")).status_code != 429:
            pass
        assert (await tried(stranger, ann.email, PASSWORD)).status_code == 429
        answer = await tried(ann.client, ann.email, PASSWORD)
        assert answer.status_code == 200


async def test_elsewhere_a_right_password_waits_like_a_wrong_one(world: World, ann, from_):
    """Or guessing would go on, and a right guess would show."""
    await use_up(from_)
    await use_up(from_, "nobody@example.com")
    client = await from_("198.51.100.2")
    answers = [
        await tried(client, password=PASSWORD),
        await tried(client),
        await tried(client, "nobody@example.com"),
    ]
    assert {answer.status_code for answer in answers} == {429}
    assert len({answer.content for answer in answers}) == 1
    assert all(int(answer.headers["retry-after"]) <= 6 for answer in answers)
    assert {frozenset(answer.headers) for answer in answers} == {frozenset(answers[0].headers)}


async def test_a_device_has_only_so_many_tries_too(world: World, ann):
    """A stolen laptop knows no password."""
    statuses = [(await tried(ann.client, ann.email)).status_code for _ in range(TRIES + 1)]
    assert statuses == [401] * TRIES + [429]


async def test_a_made_up_device_is_a_stranger(world: World, ann, from_):
    await use_up(from_)
    client = await from_("198.51.100.3")
    for token in ("made up", "x" * 4000):
        answer = await tried(client, password=PASSWORD, headers={"Cookie": f"device={token}"})
        assert answer.status_code == 429


async def test_a_device_that_was_planted_is_replaced(world: World, ann, from_):
    """Whoever put a cookie into a browser would else have the device that signs in there."""
    client = await from_("198.51.100.4")
    answer = await tried(client, password=PASSWORD, headers={"Cookie": "device=planted"})
    assert answer.status_code == 200
    assert client.cookies["device"] != "planted"
    again = await tried(client, password=PASSWORD)
    assert again.status_code == 200
    assert "HttpOnly" in again.headers["set-cookie"]


async def test_one_device_may_be_two_peoples(world: World, ann, bob, from_):
    client = await from_("198.51.100.5")
    await tried(client, ann.email, PASSWORD)
    first = client.cookies["device"]
    await tried(client, bob.email, PASSWORD)
    assert client.cookies["device"] == first


async def test_a_users_places_are_bounded(world: World, ann, from_):
    for number in range(30):
        client = await from_(f"198.51.100.{number}")
        assert (await tried(client, password=PASSWORD)).status_code == 200
    async with world.backend.database.read() as session:
        count = select(func.count()).select_from(SignInPlace)
        assert await session.scalar(count.where(SignInPlace.user_id == ann.id)) == 20


async def test_a_flood_costs_no_statement(world: World, ann, from_):
    """What this process knows to be empty is not asked for again."""
    client = await from_("203.0.113.200")
    for number in range(60):
        await tried(client, f"{number}@example.com")

    async def nothing_is_asked() -> bool:
        """On a slow machine another try may have come up meanwhile."""
        while (await tried(client, "a@example.com")).status_code != 429:
            pass
        before = world.backend.database.statements
        for _ in range(20):
            await client.post("/api/auth/login", content=b"x" * 15_000)
        return world.backend.database.statements == before

    await until(nothing_is_asked)


async def test_old_tries_are_forgotten(world: World, ann):
    clock = Clock()
    tries = Tries(world.backend.database, clock=clock)
    await tries.take([Bucket("a", 10)])
    async with world.backend.database.write() as session:
        await tries.remove_full(session)
        assert await session.scalar(select(func.count()).select_from(SignInBucket)) >= 1
        clock.now += 100
        await tries.remove_full(session)
        found = select(func.count()).select_from(SignInBucket)
        key = Bucket("a", 10).key
        assert await session.scalar(found.where(SignInBucket.key == key)) == 0


@pytest.mark.parametrize(("size", "status"), [(16 * 1024, 422), (16 * 1024 + 1, 413)])
async def test_a_body_that_anyone_may_send_is_small(world: World, size, status):
    start = b'{"email": "a@example.com", "password": "x", "more": "'
    body = start + b"x" * (size - len(start) - 2) + b'"}'
    headers = {"Content-Type": "application/json"}
    answer = await world.anyone.post("/api/auth/login", content=body, headers=headers)
    assert answer.status_code == status
