"""Teams and their members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from sqlalchemy import delete, select

from headwater.backend.access import record_access_change
from headwater.backend.auth.loader import Loader
from headwater.backend.database import Database
from headwater.backend.listing import Paging, page_of
from headwater.backend.models import ClientActivity, Membership, Notification, Satellite, Team, User
from headwater.backend.problems import not_found


class Teams:
    """What can be done with teams."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._of_ids = select(Team.id).where(database.among(Team.id))
        self._known = Loader(self._find)

    async def exists(self, team_id: str) -> bool:
        return await self._known.load(team_id) is not None

    async def page(self, paging: Paging) -> tuple[list[Any], bool]:
        return await page_of(self._database, select(Team.id, Team.name, Team.created_at), paging)

    async def create(self, name: str) -> Team:
        """A new team, without members."""
        team = Team(id=uuid4().hex, name=name)
        async with self._database.write() as session:
            session.add(team)
        return team

    async def remove(self, team_id: str) -> None:
        """Remove a team with its satellites and everything of theirs; its streams end at once.

        Raises 404.
        """
        async with self._database.write() as session:
            if await session.get(Team, team_id) is None:
                raise not_found("team", team_id)
            await session.execute(delete(Membership).where(Membership.team_id == team_id))
            await record_access_change(session, None)
        for model in (Notification, ClientActivity):
            await self._database.delete_in_steps(model, model.team_id == team_id)
        of_the_team = select(Satellite.id).where(Satellite.team_id == team_id)
        await self._database.delete_in_steps(
            ClientActivity, ClientActivity.satellite_id.in_(of_the_team)
        )
        async with self._database.write() as session:
            await session.execute(delete(Team).where(Team.id == team_id))
            # Administrators who are no members could see the team until now.
            await record_access_change(session, None)

    async def members(self, team_id: str, paging: Paging) -> tuple[list[Any], bool]:
        """The members of a team, the oldest users first."""
        members = (
            select(User.id, User.email, Membership.role, User.created_at)
            .join(Membership, Membership.user_id == User.id)
            .where(Membership.team_id == team_id)
        )
        return await page_of(self._database, members, paging)

    async def put_member(self, team_id: str, user_id: str, role: str) -> None:
        """Add a user to a team, in this role. Raises 404 for an unknown user."""
        async with self._database.write() as session:
            if await session.get(User, user_id) is None:
                raise not_found("user", user_id)
            await session.execute(
                self._database.insert(Membership)
                .values(team_id=team_id, user_id=user_id, role=role)
                .on_conflict_do_update(index_elements=["team_id", "user_id"], set_={"role": role})
            )
            await record_access_change(session, user_id)

    async def remove_member(self, team_id: str, user_id: str) -> None:
        """Remove a user from a team. Raises 404 if the user is no member."""
        async with self._database.write() as session:
            removed = delete(Membership).where(
                Membership.team_id == team_id, Membership.user_id == user_id
            )
            if await session.scalar(removed.returning(Membership.user_id)) is None:
                raise not_found("member", user_id)
            await record_access_change(session, user_id)

    async def _find(self, team_ids: Sequence[str]) -> Mapping[str, str]:
        rows = await self._database.look_up(self._of_ids, team_ids)
        return {team_id: team_id for (team_id,) in rows}
