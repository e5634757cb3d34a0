"""Client activity: counts that satellites add up, one row for each client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from headwater.backend.activity.schemas import ActivityReport
from headwater.backend.database import Database
from headwater.backend.models import ClientActivity, Membership, Satellite, Team, User
from headwater.backend.problems import invalid, not_found
from headwater.backend.times import utc_now


class Activities:
    """What can be done with client activity."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._adding = _add(database)

    async def add(self, satellite_id: str, reports: Sequence[ActivityReport]) -> None:
        """Add counts to the clients' rows and move their last activity to now: all, or none.

        Raises 422 for a user or team that does not exist, a user outside the team, or a team that a
        satellite of another team does not work for.
        """
        async with self._database.write() as session:
            satellite = await session.get(Satellite, satellite_id)
            if satellite is None:
                raise not_found("satellite", satellite_id)
            await self._check(session, reports, satellite.team_id)
            ids = await _ids(session, satellite_id, {report.user_id for report in reports})
            now = utc_now()
            rows = [
                {
                    **report.model_dump(),
                    # With another id the row would be sent as a removal and a new item.
                    "id": ids.setdefault(
                        (report.user_id, report.team_id, report.client_name), uuid4().hex
                    ),
                    "satellite_id": satellite_id,
                    "satellite_name": satellite.name,
                    "user_agent": report.user_agent or "",
                    "last_activity_at": now,
                    "created_at": now,
                }
                for report in reports
            ]
            # One statement for all would have too many parameters, so it runs once for each row.
            await session.execute(self._adding, rows)

    async def _check(
        self, session: AsyncSession, reports: Sequence[ActivityReport], own_team: str | None
    ) -> None:
        """Raise 422 for the first report that cannot be counted."""
        statement = select(Membership.user_id, Membership.team_id).where(
            Membership.user_id.in_({report.user_id for report in reports})
        )
        belongs = {(user_id, team_id) for user_id, team_id in await session.execute(statement)}
        for index, report in enumerate(reports):
            place = f"activities.{index}"
            if own_team is not None and report.team_id != own_team:
                raise invalid(
                    f"{place}.team_id",
                    "this satellite reports for its own team alone",
                    value=report.team_id,
                )
            if (report.user_id, report.team_id) in belongs:
                continue
            if await session.get(User, report.user_id) is None:
                raise invalid(f"{place}.user_id", "there is no such user", value=report.user_id)
            if await session.get(Team, report.team_id) is None:
                raise invalid(f"{place}.team_id", "there is no such team", value=report.team_id)
            raise invalid(
                f"{place}.user_id",
                f"this user is not a member of the team {report.team_id}",
                value=report.user_id,
            )


async def _ids(
    session: AsyncSession, satellite_id: str, users: set[str]
) -> dict[tuple[str, str, str], str]:
    """The rows that a satellite's clients of these users have already."""
    statement = select(
        ClientActivity.user_id,
        ClientActivity.team_id,
        ClientActivity.client_name,
        ClientActivity.id,
    ).where(ClientActivity.satellite_id == satellite_id, ClientActivity.user_id.in_(users))
    return {
        (user_id, team_id, client_name): row_id
        for user_id, team_id, client_name, row_id in await session.execute(statement)
    }


def _add(database: Database) -> Any:
    added = database.insert(ClientActivity)
    new = added.excluded
    return added.on_conflict_do_update(
        index_elements=["user_id", "team_id", "satellite_id", "client_name"],
        set_={
            "requests": ClientActivity.requests + new.requests,
            "tool_calls": ClientActivity.tool_calls + new.tool_calls,
            # A report without a user agent keeps the last one.
            "user_agent": func.coalesce(func.nullif(new.user_agent, ""), ClientActivity.user_agent),
            "last_activity_at": new.last_activity_at,
        },
    )
