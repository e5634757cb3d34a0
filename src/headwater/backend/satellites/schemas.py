"""Satellites and their metrics as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from headwater.backend.schemas import Body, Identifier, Moment, Name, Result

MAX_REPORTS = 1000

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SatelliteInfo(Result):
    id: str
    name: str
    team_id: str | None
    created_at: datetime


class SatelliteList(Result):
    satellites: list[SatelliteInfo]
    has_more: bool


class SatelliteCreate(Body):
    name: Name
    team_id: Identifier | None = None


class SatelliteCreated(Result):
    id: str
    name: str
    team_id: str | None
    api_key: str = Field(description="Shown this once; only its hash is stored.")


class SatelliteKeyCreate(Body):
    overlap_seconds: int = Field(
        default=3600,
        ge=0,
        le=30 * 24 * 3600,
        description="For how long the former keys still work; 0 ends them at once.",
    )


class SatelliteKeyCreated(Result):
    satellite_id: str
    api_key: str = Field(description="Shown this once; only its hash is stored.")
    former_keys_end_at: datetime


class Metrics(Result):
    """What a satellite reported about itself at one moment."""

    id: str
    at: datetime
    cpu_percent: float
    memory_mb: float
    requests_per_s: float
    errors_per_s: float


class SatelliteStatus(Result):
    """A satellite at a glance. ``id`` is its key in the feed."""

    id: str
    name: str
    team_id: str | None
    clients: int = Field(description="MCP clients that ever worked through it.")
    metrics: Metrics | None = Field(
        description="The latest report; null when there is none, or when it was removed."
    )
    errors_last_5_minutes: int = Field(
        description="Estimated from the reports of the last five minutes."
    )


class MetricsReport(Body):
    at: Moment | None = Field(default=None, description="When it was measured; by default now.")
    cpu_percent: Amount
    memory_mb: Amount
    requests_per_s: Amount
    errors_per_s: Amount


class MetricsReports(Body):
    reports: Annotated[list[MetricsReport], Field(min_length=1, max_length=MAX_REPORTS)]


class MetricsIds(Result):
    ids: list[str] = Field(description="The ids of the reports, in the same order.")
