"""``Idempotency-Key``: a request that is sent again is carried out once.

A client whose connection broke cannot know whether its request was carried out. With a key it sends
the same request again. The key and what the request does are written in one transaction where both
are in the database; an event log remembers the key of an append by itself.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from headwater.backend.database import Database
from headwater.backend.models import IdempotentRequest
from headwater.backend.times import utc_now
from headwater.web.problems import Problem

KEPT = timedelta(days=1)
# Of one caller, who may send one each second all day. A row has some 300 bytes, so these are 30 MB.
# Beyond it the caller's oldest go first: nobody loses a key for what another sends.
MAX_KEPT = 100_000


@dataclass(frozen=True, slots=True)
class RequestKey:
    """One request with a key.

    Attributes:
        id: the hash of the caller, the route and the key: others may choose the same key.
        caller: such as ``user:5``.
        body: the hash of the request's body.
        since: when the key was first used; None before ``Repeats.answered``.
    """

    id: str
    caller: str
    body: str
    since: datetime | None = None

    @classmethod
    def of(cls, body: bytes, caller: str, *names: str) -> RequestKey:
        """The key of a request with this body; ``names`` identify the route and the key."""
        return cls(_hash("\0".join((caller, *names)).encode()), caller, _hash(body))

    @property
    def append_key(self) -> str:
        """The key of an append to the event log, which may remember keys for longer than a day."""
        assert self.since is not None
        return f"{self.id}/{self.since.isoformat()}"


class Repeats:
    """The requests that came with a key, and their answers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def answered(
        self, session: AsyncSession, key: RequestKey
    ) -> tuple[RequestKey, Any | None]:
        """Claim the key. Returns the answer to an earlier request with it, or None.

        A request with the same key that runs at the same time waits here for the other's
        transaction. Raises 422 for another body.
        """
        row = IdempotentRequest
        claim = self._database.insert(row).values(
            id=key.id, caller=key.caller, body_hash=key.body, created_at=utc_now()
        )
        # A claim of before is written as it was, so that it is returned like a new one.
        claim = claim.on_conflict_do_update(index_elements=["id"], set_={"caller": key.caller})
        claimed = await session.execute(claim.returning(row.body_hash, row.answer, row.created_at))
        body, answer, since = claimed.one()
        if body != key.body:
            raise Problem(
                422,
                "This Idempotency-Key was used for another body: choose a new key for a new "
                "request.",
            )
        return replace(key, since=since), None if answer is None else json.loads(answer)

    async def keep(self, session: AsyncSession, key: RequestKey, answer: Any) -> None:
        """Store the answer, a JSON value, for a repeated request."""
        await session.execute(
            update(IdempotentRequest)
            .where(IdempotentRequest.id == key.id)
            .values(answer=json.dumps(answer, ensure_ascii=False, separators=(",", ":")))
        )

    async def remove_old(self, *, most: int = MAX_KEPT) -> None:
        """Delete keys that are older than a day, and a caller's oldest beyond ``most``."""
        at, caller = IdempotentRequest.created_at, IdempotentRequest.caller
        database = self._database
        await database.delete_in_steps(IdempotentRequest, at < utc_now() - KEPT)
        too_many = select(caller).group_by(caller).having(func.count(caller) > most)
        async with database.read() as session:
            callers = (await session.scalars(too_many)).all()
        for each in callers:
            newest_first = select(at).where(caller == each).order_by(at.desc())
            async with database.read() as session:
                bound = await session.scalar(newest_first.offset(most).limit(1))
            if bound is not None:
                await database.delete_in_steps(IdempotentRequest, (caller == each) & (at <= bound))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
