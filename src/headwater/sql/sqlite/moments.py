"""Date-times on SQLite: text in UTC, as SQLAlchemy writes it and as other programs do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

__all__ = ["moment_of", "normal", "text_of"]


def normal(moment: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    """A date-time's text with six digits of fraction; other programs leave them out."""
    zeros = sa.case(
        (sa.func.length(moment) > len("2026-01-01 00:00:00"), "000000"), else_=".000000"
    )
    return sa.func.substr(moment.op("||")(zeros), 1, 26, type_=sa.Text)


def text_of(moment: datetime) -> str:
    """UTC as SQLAlchemy stores it on SQLite."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def moment_of(text: str | None) -> datetime | None:
    """What ``text_of`` and other programs write, as UTC."""
    if text is None:
        return None
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
