"""Notifications: to one user, or to all of a team."""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy import insert

from headwater.backend.auth.principal import Principal
from headwater.backend.database import Database
from headwater.backend.idempotency.service import Repeats, RequestKey
from headwater.backend.models import Notification as Row
from headwater.backend.models import Team, User
from headwater.backend.notifications.schemas import Notification, NotificationCreate
from headwater.backend.problems import invalid
from headwater.web.problems import Problem


class Notifications:
    """What can be done with notifications."""

    def __init__(self, database: Database, repeats: Repeats) -> None:
        self._database = database
        self._repeats = repeats

    async def create(
        self, sender: Principal, wanted: NotificationCreate, key: RequestKey | None = None
    ) -> Notification:
        """Notify a user or a team.

        With ``notifications.create`` everywhere a sender may notify anyone, and with it in a team
        that team and themselves. Raises 403, and 422 for a recipient that does not exist,
        or that the sender may not know of. A request whose ``key`` was used before is answered with
        the notification that the first one made.
        """
        if (wanted.user_id is None) == (wanted.team_id is None):
            raise invalid(
                "user_id",
                "give exactly one of user_id and team_id",
                value=wanted.user_id,
            )
        self._check_sender(sender, wanted)
        notification_id = uuid4().hex
        async with self._database.write() as session:
            if key is not None:
                key, first = await self._repeats.answered(session, key)
                if first is not None:
                    return Notification.model_validate(first)
            if wanted.user_id is not None:
                if await session.get(User, wanted.user_id) is None:
                    raise invalid("user_id", "there is no such user", value=wanted.user_id)
            elif await session.get(Team, wanted.team_id) is None:
                raise invalid("team_id", "there is no such team", value=wanted.team_id)
            await session.execute(insert(Row).values(id=notification_id, **wanted.model_dump()))
            made = Notification.model_validate(await session.get_one(Row, notification_id))
            if key is not None:
                await self._repeats.keep(session, key, made.model_dump(mode="json"))
            return made

    def _check_sender(self, sender: Principal, wanted: NotificationCreate) -> None:
        if sender.may("notifications.create") or wanted.user_id == sender.id:
            return
        if wanted.user_id is not None:
            raise Problem(
                403, "You may notify yourself and the teams that you administer, not other users."
            )
        team_id = wanted.team_id or ""
        if not sender.knows_team(team_id):
            raise invalid("team_id", "there is no such team", value=team_id)
        if not sender.may_in("notifications.create", team_id):
            raise Problem(403, "You do not administer this team.")
