"""Log entries: written in batches, all or none."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from sqlalchemy import insert

from headwater.backend.database import Database
from headwater.backend.logs.schemas import EntryCreate
from headwater.backend.models import LogEntry
from headwater.backend.times import utc_now

__all__ = ["Logs"]


class Logs:
    """What can be done with log entries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, user_id: str, entries: Sequence[EntryCreate]) -> list[str]:
        """Write entries in one transaction, in their order; their ids."""
        now = utc_now()
        rows = [
            {"id": uuid4().hex, "user_id": user_id, "created_at": now, **entry.model_dump()}
            for entry in entries
        ]
        async with self._database.write() as session:
            await session.execute(insert(LogEntry), rows)
        return [str(row["id"]) for row in rows]
