"""Changed rights reach the open streams of all processes.

A change of a user's rights writes a row in the same transaction. Each process follows that table,
see ``LiveRouter.follow_rechecks``, and checks the open streams of that user again at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from headwater.backend.models import AccessChange, Membership, User
from headwater.backend.roles import GLOBAL_ROLES

# Instead of a user's id: the rights of everyone.
_EVERYONE = "*"
# Users who are named one by one.
MOST_NAMED = 1_000
_SEE_ALL_TEAMS = [role for role, held in GLOBAL_ROLES.items() if "teams.view_all" in held]


async def record_access_change(session: AsyncSession, user_id: str | None) -> None:
    """Write a change of rights in the caller's transaction.

    Arguments:
        user_id: whose rights; None for everyone's, as when a team is removed.
    """
    await session.execute(insert(AccessChange).values(user_id=user_id or _EVERYONE))


async def record_access_change_in_team(
    session: AsyncSession, team_id: str | None, *, most: int = MOST_NAMED
) -> None:
    """Write a change of the rights of all who may know of a team.

    A check of everyone's rights would delay the streams of all others. With more than ``most``
    users it is the shorter way: each of them would be a row.

    Arguments:
        team_id: None for what belongs to no team, and is everyone's.
    """
    if team_id is None:
        await record_access_change(session, None)
        return
    members = select(Membership.user_id).where(Membership.team_id == team_id)
    whose = select(User.id).where(User.id.in_(members) | User.role.in_(_SEE_ALL_TEAMS))
    some = whose.limit(most + 1).subquery()
    if (await session.scalar(select(func.count()).select_from(some)) or 0) > most:
        await record_access_change(session, None)
    else:
        await session.execute(insert(AccessChange).from_select(["user_id"], whose))


def subject_of(values: Mapping[str, Any]) -> str | None:
    """The subject whose streams are checked again; None for all streams."""
    user_id = values["user_id"]
    return None if user_id == _EVERYONE else f"user:{user_id}"
