"""Password hashing with argon2id, in threads and a few at a time."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from headwater.web.problems import Problem

T = TypeVar("T")

# Each takes about 20 ms, so the last of these waits about a second.
_MAX_WAITING = 64
# Sign-ins from places that their user never signed in from have half of it, so that strangers keep
# nobody out.
_MAX_STRANGERS = 32


class Passwords:
    """Hashes and verifies. Never more than ``concurrency`` at once, each with its own memory.

    With too many waiting, callers get 503 instead of a longer queue.
    """

    def __init__(self, *, time_cost: int, memory_kib: int, concurrency: int) -> None:
        self._hasher = PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=1)
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="argon2")
        self._waiting = 0
        # What a sign-in with an unknown e-mail address is compared with, so that it takes as
        # long as one with a known address.
        self._nobody = self._hasher.hash(secrets.token_urlsafe(16))

    async def hash(self, password: str) -> str:
        """The hash to store, with its salt and costs."""
        return await self._run(self._hasher.hash, password)

    async def verify(self, stored: str | None, password: str, *, stranger: bool = False) -> bool:
        """Whether the password is right; False, after the same work, with nothing stored.

        ``stranger``: it comes from where the user never signed in before.
        """
        most = _MAX_STRANGERS if stranger else _MAX_WAITING
        return await self._run(self._verify, stored, password, most=most)

    def outdated(self, stored: str) -> bool:
        """Whether the hash was made with other costs than today's."""
        return self._hasher.check_needs_rehash(stored)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, stored: str | None, password: str) -> bool:
        try:
            right = self._hasher.verify(stored or self._nobody, password)
        except (Argon2Error, InvalidHashError):
            return False
        return right and stored is not None

    async def _run(self, call: Callable[..., T], *arguments: object, most: int = _MAX_WAITING) -> T:
        if self._waiting >= most:
            raise Problem(
                503, "Too many are signing in just now; try again.", headers={"Retry-After": "2"}
            )
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, partial(call, *arguments))
        finally:
            self._waiting -= 1
