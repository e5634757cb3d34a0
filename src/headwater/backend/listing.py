"""Plain lists, page by page, in the order of creation."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Query
from pydantic import AfterValidator
from sqlalchemy import Select, tuple_

from headwater.backend.database import Database
from headwater.backend.problems import invalid
from headwater.backend.schemas import Limit, is_one_line


class Paging(NamedTuple):
    """Which page is asked for: at most ``limit`` rows, after the one with the id ``after``."""

    limit: int = 100
    after: str | None = None


async def _paging(
    limit: Limit = 100,
    after: Annotated[
        str | None,
        Query(max_length=64, description="The `id` of the last row of the page before this one."),
        AfterValidator(lambda value: value and is_one_line(value)),
    ] = None,
) -> Paging:
    return Paging(limit, after)


PageAsked = Annotated[Paging, Depends(_paging)]


async def page_of(
    database: Database, statement: Select[*tuple[Any, ...]], paging: Paging
) -> tuple[list[Any], bool]:
    """The page of a SELECT that has an ``id`` and a ``created_at``, and whether there are more.

    Raises 422 when the list has no row ``after``. A row that exists elsewhere is answered the same,
    so that a caller learns nothing of what the list does not show.
    """
    columns = statement.selected_columns
    place = tuple_(columns.created_at, columns.id)
    async with database.read() as session:
        if paging.after is not None:
            of_the_list = statement.where(columns.id == paging.after).with_only_columns(
                columns.created_at, columns.id, maintain_column_froms=True
            )
            before = (await session.execute(of_the_list)).first()
            if before is None:
                raise invalid(
                    "after",
                    "it is not the id of a row of this list",
                    where="query",
                    value=paging.after,
                )
            statement = statement.where(place > tuple_(*before))
        ordered = statement.order_by(columns.created_at, columns.id).limit(paging.limit + 1)
        rows = list((await session.execute(ordered)).all())
    return rows[: paging.limit], len(rows) > paging.limit
