"""Plain lists, page by page, in the order of creation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, tuple_
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

    Raises 422 when the list has no row ``after``. A row that exists elsewhere is answered the same,
    so that a caller learns nothing of what the list does not show.
    """
    if after is not None:
        of_the_list = statement.with_only_columns(
            model.created_at, model.id, maintain_column_froms=True
        )
        place = (await session.execute(of_the_list.where(model.id == after))).first()
        if place is None:
            detail = "it is not the id of a row of this list"
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
