"""Password hashing."""

from __future__ import annotations

import asyncio
import threading

import pytest
from argon2 import PasswordHasher

from headwater.backend.auth.passwords import Passwords
from headwater.web.problems import Problem


@pytest.fixture
def passwords():
    made = Passwords(time_cost=1, memory_kib=8, concurrency=2)
    yield made
    made.close()


async def test_a_hash_verifies_its_password_alone(passwords: Passwords):
    stored = await passwords.hash("right")
    assert stored.startswith("$argon2id$")
    assert await passwords.verify(stored, "right")
    assert not await passwords.verify(stored, "wrong")
    assert not await passwords.verify("damaged", "right")
    assert stored != await passwords.hash("right")


async def test_nobody_has_no_password(passwords: Passwords):
    assert not await passwords.verify(None, "anything")


async def test_a_hash_with_other_costs_is_outdated(passwords: Passwords):
    stored = await passwords.hash("right")
    assert not passwords.outdated(stored)
    dearer = Passwords(time_cost=2, memory_kib=16, concurrency=1)
    assert dearer.outdated(stored)
    dearer.close()


async def test_the_loop_goes_on_and_few_run_at_once(passwords: Passwords, monkeypatch):
    """Each takes 19 MiB and 20 ms: a thousand sign-ins must not be a thousand times that."""
    running, most, release = 0, 0, threading.Event()

    def slow(_hasher, _stored, _password):
        nonlocal running, most
        running += 1
        most = max(most, running)
        release.wait(10)
        running -= 1
        return True

    monkeypatch.setattr(PasswordHasher, "verify", slow)
    asked = [asyncio.create_task(passwords.verify("x", "y")) for _ in range(64)]
    await asyncio.sleep(0)
    with pytest.raises(Problem) as refused:
        await passwords.verify("x", "y")
    assert refused.value.status_code == 503
    release.set()
    assert all(await asyncio.gather(*asked))
    assert most <= 2
