"""The list of runs, which is a feed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from headwater.runs import State


class HeadwaterRunItem(BaseModel):
    """A run in a list."""

    id: str
    state: State
    error: str | None = Field(None, description="One sentence, if the run failed or was lost.")
    group: str | None = None
    attempt: int = Field(0, description="How often an attempt began it.")
    created_at: datetime
    ended_at: datetime | None = None


# As the feed is declared.
FEED: dict[str, Any] = {
    "item": HeadwaterRunItem,
    "collection": "runs",
    "event": "run",
    "keyed": True,
}
