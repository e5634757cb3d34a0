"""Notifications as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints

from headwater.backend.models import NotificationLevel
from headwater.backend.schemas import Body, Identifier, Result, Text


class Notification(Result):
    """A notification to a user or to a team: exactly one of the two ids is set."""

    id: str
    user_id: str | None
    team_id: str | None
    level: NotificationLevel
    title: str
    body: str
    created_at: datetime


class NotificationCreate(Body):
    """Exactly one of ``user_id`` and ``team_id`` names the recipient."""

    user_id: Identifier | None = None
    team_id: Identifier | None = None
    level: NotificationLevel = "info"
    title: Annotated[Text, StringConstraints(min_length=1, max_length=200)]
    body: Text = Field(default="", description="Plain text.")
