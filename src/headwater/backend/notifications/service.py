"""Notifications: to one user, or to all of a team."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from sqlalchemy import insert, select

from headwater.backend.auth.principal import Principal
from headwater.backend.database import Database
from headwater.backend.models import Notification, Team, User
from headwater.backend.notifications.schemas import NotificationCreate
from headwater.backend.problems import forbidden, invalid

__all__ = ["Notifications"]


class Notifications:
    """What can be done with notifications."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, sender: Principal, wanted: NotificationCreate) -> Any:
        """Notify a user or a team.

        With ``notifications.create`` everywhere a user may notify anyone. With it in a
        team, a user may notify that team. Raises 403, and 422 for a recipient that does not exist,
        or that the sender may not know of.
        """
        if (wanted.user_id is None) == (wanted.team_id is None):
            raise invalid(
                "user_id",
                "exactly one of user_id and team_id is needed",
                value=wanted.user_id,
            )
        self._check_sender(sender, wanted)
        notification_id = uuid4().hex
        async with self._database.write() as session:
            if wanted.user_id is not None:
                known = await session.scalar(select(User.id).where(User.id == wanted.user_id))
                if known is None:
                    raise invalid("user_id", "there is no such user", value=wanted.user_id)
            elif await session.scalar(select(Team.id).where(Team.id == wanted.team_id)) is None:
                raise invalid("team_id", "there is no such team", value=wanted.team_id)
            await session.execute(
                insert(Notification).values(id=notification_id, **wanted.model_dump())
            )
            return await session.get_one(Notification, notification_id)

    def _check_sender(self, sender: Principal, wanted: NotificationCreate) -> None:
        if sender.may("notifications.create"):
            return
        if wanted.user_id is not None:
            if wanted.user_id != sender.id:
                raise forbidden(
                    "You may notify yourself and the teams that you administer, not other users."
                )
            return
        team_id = wanted.team_id or ""
        if not sender.knows_team(team_id):
            raise invalid("team_id", "there is no such team", value=team_id)
        if not sender.may_in("notifications.create", team_id):
            raise forbidden("You do not administer this team.")
