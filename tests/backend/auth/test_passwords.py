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


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch):
    """Passwords are verified when it is set; ``most`` is how many were at once."""

    class Slow(threading.Event):
        running = most = 0

        def verify(self, _stored: str, _password: str) -> bool:
            self.running += 1
            self.most = max(self.most, self.running)
            self.wait(10)
            self.running -= 1
            return True

    made = Slow()
    monkeypatch.setattr(PasswordHasher, "verify", lambda _, *pair: made.verify(*pair))
    return made


async def test_the_loop_goes_on_and_few_run_at_once(passwords: Passwords, slow):
    """Each takes 19 MiB and 20 ms: a thousand sign-ins must not be a thousand times that."""
    asked = [asyncio.create_task(passwords.verify("x", "y")) for _ in range(64)]
    await asyncio.sleep(0)
    with pytest.raises(Problem) as refused:
        await passwords.verify("x", "y")
    assert refused.value.status_code == 503
    slow.set()
    assert all(await asyncio.gather(*asked))
    assert slow.most <= 2


async def test_strangers_keep_nobody_out_who_signed_in_there_before(passwords: Passwords, slow):
    asked = [asyncio.create_task(passwords.verify("x", "y", stranger=True)) for _ in range(32)]
    await asyncio.sleep(0)
    with pytest.raises(Problem) as refused:
        await passwords.verify("x", "y", stranger=True)
    assert refused.value.status_code == 503
    asked.append(asyncio.create_task(passwords.verify("x", "y")))
    slow.set()
    assert all(await asyncio.gather(*asked))
