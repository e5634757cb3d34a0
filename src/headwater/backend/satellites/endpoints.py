"""``/api/satellites``: listing and registering them, and their metrics as a feed."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter

from headwater.backend.auth.dependencies import (
    CurrentSatellite,
    CurrentUser,
    reports_itself,
    requires,
    satellite_of_path,
    signed_in,
)
from headwater.backend.idempotency.dependencies import IdempotencyKey
from headwater.backend.listing import PageAsked
from headwater.backend.satellites.schemas import (
    Metrics,
    MetricsIds,
    MetricsReports,
    SatelliteCreate,
    SatelliteCreated,
    SatelliteKeyCreate,
    SatelliteKeyCreated,
    SatelliteList,
    SatelliteStatus,
)
from headwater.backend.satellites.service import topic_of
from headwater.backend.schemas import NO_CONTENT, PathId
from headwater.backend.state import BackendState
from headwater.web.fastapi import GuardedRoute, LiveRouter, Source

router = APIRouter(prefix="/satellites", tags=["satellites"], route_class=GuardedRoute)


@router.get("", dependencies=[signed_in, requires("satellites.view")])
async def list_satellites(
    user: CurrentUser, backend: BackendState, paging: PageAsked
) -> SatelliteList:
    """The satellites of the caller's teams, and those without a team."""
    rows, has_more = await backend.satellites.page(user, paging)
    return SatelliteList(satellites=rows, has_more=has_more)


@router.post("", status_code=201, dependencies=[signed_in, requires("satellites.manage")])
async def register_satellite(
    body: SatelliteCreate, user: CurrentUser, backend: BackendState
) -> SatelliteCreated:
    """Register a satellite. Its key is shown only in this answer."""
    satellite_id, key = await backend.satellites.register(user, body.name, body.team_id)
    return SatelliteCreated(id=satellite_id, name=body.name, team_id=body.team_id, api_key=key)


@router.post(
    "/{satellite_id}/keys",
    status_code=201,
    dependencies=[signed_in, requires("satellites.manage")],
)
async def renew_satellite_key(
    satellite_id: PathId,
    user: CurrentUser,
    backend: BackendState,
    body: SatelliteKeyCreate | None = None,
) -> SatelliteKeyCreated:
    """A new key, shown only in this answer. Former keys work for ``overlap_seconds`` more."""
    overlap = timedelta(seconds=(body or SatelliteKeyCreate()).overlap_seconds)
    key, until = await backend.satellites.renew_key(user, satellite_id, overlap)
    return SatelliteKeyCreated(satellite_id=satellite_id, api_key=key, former_keys_end_at=until)


@router.delete(
    "/{satellite_id}",
    **NO_CONTENT,
    dependencies=[signed_in, requires("satellites.manage")],
)
async def remove_satellite(satellite_id: PathId, user: CurrentUser, backend: BackendState) -> None:
    """Remove a satellite and its keys. Streams of its metrics end at once."""
    await backend.satellites.remove(user, satellite_id)


@router.post("/{satellite_id}/metrics", status_code=201, dependencies=[reports_itself])
async def report_metrics(
    body: MetricsReports,
    satellite: CurrentSatellite,
    backend: BackendState,
    key: IdempotencyKey,
) -> MetricsIds:
    """Report a satellite's own measurements, up to 1,000: all of them, or none."""
    return MetricsIds(ids=await backend.satellites.report(satellite.id, body.reports, key))


def declare(live: LiveRouter) -> None:
    """The feeds."""

    @live.feed(
        "/satellites/status",
        item=SatelliteStatus,
        collection="satellites",
        event="satellite",
        requires=["satellites.view", "metrics.view"],
        keyed=True,
        limit="all",
        tags=["satellites"],
        summary="The status of my satellites",
    )
    async def satellite_status(user: CurrentUser, backend: BackendState) -> Source:
        """Satellites with their clients, latest metrics, and errors of the last five minutes."""
        return backend.board.of(None if user.may("teams.view_all") else sorted(user.teams))

    @live.feed(
        "/satellites/{satellite_id}/metrics",
        item=Metrics,
        collection="metrics",
        event="metrics",
        requires=["metrics.view", satellite_of_path],
        tags=["satellites"],
        summary="A satellite's metrics",
    )
    async def satellite_metrics(satellite_id: str, backend: BackendState) -> Source:
        """What a satellite reported about itself: CPU, memory, request and error rates."""
        return backend.log.topic(topic_of(satellite_id))
