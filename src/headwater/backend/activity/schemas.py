"""Client activity as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints

from headwater.backend.schemas import Body, Identifier, Line, Result, Text

MAX_ACTIVITIES = 1000

# A counter that is added to must stay far from SQLite's largest integer.
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]


class ClientActivity(Result):
    """One MCP client of a user on one satellite, for one team. ``id`` is its key in the feed."""

    id: str
    user_id: str
    team_id: str
    satellite_id: str
    satellite_name: str
    client_name: str
    user_agent: str
    requests: int
    tool_calls: int
    last_activity_at: datetime
    created_at: datetime


class ActivityReport(Body):
    user_id: Identifier
    team_id: Identifier
    client_name: Annotated[Line, StringConstraints(min_length=1)]
    user_agent: Annotated[Text, StringConstraints(max_length=500)] | None = None
    requests: Count
    tool_calls: Count


class ActivitiesReport(Body):
    activities: Annotated[list[ActivityReport], Field(min_length=1, max_length=MAX_ACTIVITIES)]


class ActivitiesAccepted(Result):
    accepted: int = Field(description="How many activities were counted.")
