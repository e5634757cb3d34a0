"""Log entries as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from headwater.backend.models import LogLevel
from headwater.backend.schemas import Body, Fields, Line, Result, Text

MAX_ENTRIES = 1000


class LogEntry(Result):
    """One line of a user's log."""

    id: str
    level: LogLevel
    source: str
    message: str
    fields: dict[str, Any] = Field(description="Further values, as a JSON object.")
    created_at: datetime


class EntryCreate(Body):
    level: LogLevel = "info"
    source: Line = ""
    message: Text
    fields: Fields = Field(default_factory=dict)


class LogsCreate(Body):
    entries: Annotated[list[EntryCreate], Field(min_length=1, max_length=MAX_ENTRIES)]


class LogIds(Result):
    ids: list[str] = Field(description="The ids of the entries, in the same order.")
