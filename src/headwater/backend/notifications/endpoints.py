"""Notifications: two feeds, the caller's and a team's, and sending one."""

from __future__ import annotations

from fastapi import APIRouter

from headwater.backend.auth.dependencies import (
    CurrentUser,
    requires,
    signed_in,
    team_of_path,
)
from headwater.backend.idempotency.dependencies import IdempotencyKey
from headwater.backend.notifications.schemas import Notification, NotificationCreate
from headwater.backend.state import BackendState
from headwater.web.fastapi import GuardedRoute, LiveRouter, Source

router = APIRouter(
    prefix="/notifications",
    tags=["notifications"],
    route_class=GuardedRoute,
    dependencies=[signed_in],
)


@router.post("", status_code=201, dependencies=[requires("notifications.create")])
async def create_notification(
    body: NotificationCreate,
    user: CurrentUser,
    backend: BackendState,
    key: IdempotencyKey,
) -> Notification:
    """Notify a user or a team."""
    return await backend.notifications.create(user, body, key)


def declare(live: LiveRouter) -> None:
    """The feeds."""

    @live.feed(
        "/notifications",
        item=Notification,
        collection="notifications",
        event="notification",
        requires="notifications.read",
        tags=["notifications"],
        summary="My notifications",
    )
    async def my_notifications(user: CurrentUser, backend: BackendState) -> Source:
        """The caller's notifications: personal ones, and those of the caller's teams."""
        table = backend.tables.notifications
        return table.where(user_id=user.id) | table.where(team_id=sorted(user.teams))

    @live.feed(
        "/teams/{team_id}/notifications",
        item=Notification,
        collection="notifications",
        event="notification",
        requires=["notifications.read", team_of_path],
        tags=["notifications"],
        summary="A team's notifications",
    )
    async def team_notifications(team_id: str, backend: BackendState) -> Source:
        """The notifications of one team."""
        return backend.tables.notifications.where(team_id=team_id)
