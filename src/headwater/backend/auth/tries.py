"""How often sign-ins may be tried, counted in the database for all processes together."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from headwater.backend.auth.tokens import hash_token
from headwater.backend.database import Database
from headwater.backend.models import SignInBucket

# Seconds in which an empty bucket fills up again.
_PERIOD = 60.0
# Seconds more, as sums of fractions are not exact.
_HAIR = 0.001
# Buckets that this process knows to be empty. Beyond these, the oldest is forgotten.
_MAX_KNOWN = 10_000


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of tries.

    Attributes:
        name: what it is for. Only a hash of it is stored, as it may be what a stranger typed.
        burst: tries that a full one holds; as many come back within a minute.
    """

    name: str
    burst: int

    @property
    def key(self) -> str:
        return hash_token(self.name)

    @property
    def each(self) -> float:
        """Seconds in which one try comes back."""
        return _PERIOD / self.burst


class Tries:
    """Token buckets, each one number in a row: the time at which it is full again.

    A try moves that time on, in one statement, so that processes cannot outrun each other. A
    bucket that was found empty is remembered in memory: a flood then costs no statement.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._empty: OrderedDict[str, float] = OrderedDict()
        # Tries to give back, of sign-ins that failed without a verdict.
        self._owed: Counter[Bucket] = Counter()

    def wait(self, bucket: Bucket) -> float:
        """Seconds to wait for a bucket that this process knows to be empty; else 0."""
        left = self._empty.get(bucket.key, 0.0) - self._clock()
        # A longer one was noted before the clock was set back.
        return left if 0 < left <= bucket.each + _HAIR else 0.0

    async def take(self, buckets: Sequence[Bucket]) -> float:
        """Use up a try of each bucket. Returns 0, or the seconds to wait when one has none left.

        In that case no try is used up.
        """
        known = max(map(self.wait, buckets))
        if known:
            return known
        # In one order, so that two processes do not wait for each other.
        in_order = sorted(buckets, key=lambda bucket: bucket.key)
        owed = {bucket: self._owed.pop(bucket, 0) for bucket in in_order}
        try:
            async with self._database.write() as session:
                for bucket in in_order:
                    await self._give_back(session, bucket, owed[bucket])
                    wait = await self._take(session, bucket)
                    if wait:
                        await session.rollback()
                        self._owed.update(owed)
                        return wait
        except BaseException:
            self._owed.update(owed)
            raise
        return 0.0

    async def give_back(self, session: AsyncSession, buckets: Sequence[Bucket]) -> None:
        """Give tries back in the caller's transaction, after a right password."""
        for bucket in sorted(buckets, key=lambda bucket: bucket.key):
            await self._give_back(session, bucket, 1)

    def owe(self, buckets: Sequence[Bucket]) -> None:
        """Give tries back with the next ``take``: the database may be away now."""
        for bucket in buckets:
            self._empty.pop(bucket.key, None)
        if len(self._owed) < _MAX_KNOWN:
            self._owed.update(buckets)

    async def _give_back(self, session: AsyncSession, bucket: Bucket, many: int) -> None:
        if many:
            await session.execute(
                update(SignInBucket)
                .where(SignInBucket.key == bucket.key)
                .values(full_at=SignInBucket.full_at - many * bucket.each)
            )

    async def remove_full(self, session: AsyncSession) -> None:
        """Delete buckets that are full again."""
        await session.execute(delete(SignInBucket).where(SignInBucket.full_at < self._clock()))

    async def _take(self, session: AsyncSession, bucket: Bucket) -> float:
        now = self._clock()
        latest = now + _PERIOD + _HAIR
        # No bucket is full later than that, unless the clock was set back meanwhile: then it holds
        # all its tries, or nobody could sign in until the clock is there again.
        full_at: Any = case(
            (SignInBucket.full_at.between(now, latest), SignInBucket.full_at), else_=now
        )
        new = self._database.insert(SignInBucket).values(key=bucket.key, full_at=now + bucket.each)
        taken = await session.scalar(
            new.on_conflict_do_update(
                index_elements=["key"],
                set_={"full_at": full_at + bucket.each},
                where=full_at + bucket.each <= latest,
            ).returning(SignInBucket.full_at)
        )
        if taken is not None:
            return 0.0
        stored = await session.scalar(
            select(func.max(SignInBucket.full_at)).where(SignInBucket.key == bucket.key)
        )
        wait = max((stored or now) + bucket.each - now - _PERIOD, 0.001)
        self._empty[bucket.key] = now + wait
        self._empty.move_to_end(bucket.key)
        if len(self._empty) > _MAX_KNOWN:
            self._empty.popitem(last=False)
        return wait
