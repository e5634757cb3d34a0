"""Changed rights reach the open streams of all processes.

A change of a user's rights writes a row in the same transaction. Each process follows that table,
see ``LiveRouter.follow_rechecks``, and checks the open streams of that user again at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from headwater.backend.models import AccessChange

# Instead of a user's id: the rights of everyone.
_EVERYONE = "*"


async def record_access_change(session: AsyncSession, user_id: str | None) -> None:
    """Write a change of rights in the caller's transaction.

    Arguments:
        user_id: whose rights; None for everyone's, as when a team or a satellite is removed.
    """
    await session.execute(insert(AccessChange).values(user_id=user_id or _EVERYONE))


def subject_of(values: Mapping[str, Any]) -> str | None:
    """The subject whose streams are checked again; None for all streams."""
    user_id = values["user_id"]
    return None if user_id == _EVERYONE else f"user:{user_id}"
