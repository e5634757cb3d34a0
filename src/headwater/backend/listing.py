"""Plain lists, page by page, in the order of creation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from headwater.web.problems import Problem

__all__ = ["page_of"]


async def page_of(
    session: AsyncSession,
    statement: Select[*tuple[Any, ...]],
    model: Any,
    limit: int,
    after: str | None,
) -> tuple[Sequence[Any], bool]:
    """At most ``limit`` rows after the one with the id ``after``, and whether there are more.

    Raises 422 when there is no row ``after``.
    """
    if after is not None:
        place = (
            await session.execute(select(model.created_at, model.id).where(model.id == after))
        ).first()
        if place is None:
            detail = "it is not the id of a row"
            raise Problem(
                422,
                f"after={after!r}: {detail}",
                errors=[{"field": "after", "in": "query", "value": after, "detail": detail}],
            )
        created_at, row_id = place
        statement = statement.where(tuple_(model.created_at, model.id) > tuple_(created_at, row_id))
    ordered = statement.order_by(model.created_at, model.id).limit(limit + 1)
    rows = (await session.execute(ordered)).all()
    return rows[:limit], len(rows) > limit
