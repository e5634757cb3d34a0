"""Client activity: a keyed feed of a user's active MCP clients, and reports of satellites."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query

from headwater.backend.activity.schemas import (
    ActivitiesAccepted,
    ActivitiesReport,
    ClientActivity,
)
from headwater.backend.auth.dependencies import (
    CurrentUser,
    reports_itself,
    team_of_query,
)
from headwater.backend.schemas import PathId
from headwater.backend.state import BackendState
from headwater.web.fastapi import GuardedRoute, LiveRouter, Source

router = APIRouter(tags=["client activity"], route_class=GuardedRoute)


@router.post(
    "/satellites/{satellite_id}/client-activity", status_code=201, dependencies=[reports_itself]
)
async def report_client_activity(
    body: ActivitiesReport, satellite_id: PathId, backend: BackendState
) -> ActivitiesAccepted:
    """Add counts to clients' rows and move their last activity to now: all of them, or none."""
    await backend.activities.add(satellite_id, body.activities)
    return ActivitiesAccepted(accepted=len(body.activities))


def declare(live: LiveRouter) -> None:
    """The feed."""

    @live.feed(
        "/users/me/mcp/client-activity",
        item=ClientActivity,
        collection="activities",
        event="client_activity",
        requires=["activity.view", team_of_query],
        keyed=True,
        tags=["client activity"],
        summary="My active MCP clients",
    )
    async def my_client_activity(
        user: CurrentUser,
        backend: BackendState,
        team_id: Annotated[str, Query(max_length=64, description="The team they work for.")],
        active_within_minutes: Annotated[
            int, Query(ge=1, le=1440, description="Clients idle for longer leave the feed.")
        ] = 30,
    ) -> Source:
        """The caller's active MCP clients, and their satellites."""
        table = backend.tables.activity
        window = timedelta(minutes=active_within_minutes)
        return table.where(user_id=user.id, team_id=team_id).within("last_activity_at", window)
