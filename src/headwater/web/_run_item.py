"""The model of a run in a list."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from headwater.runs import State

__all__ = ["HeadwaterRunItem"]


class HeadwaterRunItem(BaseModel):
    """A run in a list."""

    id: str
    state: State
    error: str | None = Field(None, description="One sentence, if the run failed or was lost.")
    group: str | None = None
    attempt: int = Field(0, description="How often an attempt began it.")
    created_at: datetime
    ended_at: datetime | None = None
