"""Log entries: written in batches, all or none."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from uuid import uuid4

from sqlalchemy import insert

from headwater.backend.database import Database
from headwater.backend.idempotency.service import Repeats, RequestKey
from headwater.backend.logs.schemas import EntryCreate
from headwater.backend.models import LogEntry
from headwater.backend.times import utc_now


class Logs:
    """What can be done with log entries."""

    def __init__(self, database: Database, repeats: Repeats) -> None:
        self._database = database
        self._repeats = repeats

    async def add(
        self, user_id: str, entries: Sequence[EntryCreate], key: RequestKey | None = None
    ) -> list[str]:
        """Write entries in one transaction, in their order. Returns their ids.

        A request whose ``key`` was used before writes nothing, and gets the ids of the first one.
        """
        now, seed = utc_now(), uuid4().hex
        ids = _ids(seed, len(entries))
        rows = [
            {"id": id_, "user_id": user_id, "created_at": now, **entry.model_dump()}
            for id_, entry in zip(ids, entries, strict=True)
        ]
        async with self._database.write() as session:
            if key is not None:
                key, first = await self._repeats.answered(session, key)
                if first is not None:
                    return _ids(first, len(entries))
                await self._repeats.keep(session, key, seed)
            await session.execute(insert(LogEntry), rows)
        return ids


def _ids(seed: str, count: int) -> list[str]:
    """As many ids as entries, derived from one seed. A repeated request needs the seed alone."""
    return [
        hashlib.blake2b(f"{seed}.{number}".encode(), digest_size=16).hexdigest()
        for number in range(count)
    ]
