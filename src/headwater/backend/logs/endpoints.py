"""``/api/logs``: a user's log as a feed, and writing to it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from headwater.backend.auth.dependencies import CurrentUser, requires
from headwater.backend.idempotency.dependencies import IdempotencyKey
from headwater.backend.logs.schemas import LogEntry, LogIds, LogsCreate
from headwater.backend.models import LogLevel
from headwater.backend.schemas import Line
from headwater.backend.state import BackendState
from headwater.web.fastapi import GuardedRoute, LiveRouter, Source

router = APIRouter(prefix="/logs", tags=["logs"], route_class=GuardedRoute)


@router.post("", status_code=201, dependencies=[requires("logs.create")])
async def create_log_entries(
    body: LogsCreate, user: CurrentUser, backend: BackendState, key: IdempotencyKey
) -> LogIds:
    """Write up to 1,000 entries to the caller's log: all of them, or none."""
    return LogIds(ids=await backend.logs.add(user.id, body.entries, key))


def declare(live: LiveRouter) -> None:
    """The feed."""

    @live.feed(
        "/logs",
        item=LogEntry,
        collection="logs",
        event="log",
        requires="logs.view",
        tags=["logs"],
        summary="My log",
    )
    async def my_logs(
        user: CurrentUser,
        backend: BackendState,
        level: Annotated[
            list[LogLevel] | None, Query(description="Only this level; give it again for several.")
        ] = None,
        source: Annotated[
            Line | None, Query(description="Only from this source, at most 200 characters.")
        ] = None,
    ) -> Source:
        """The caller's log entries."""
        return backend.tables.logs.where(user_id=user.id).optional(level=level, source=source)
