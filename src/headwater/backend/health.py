"""``/healthz`` and ``/readyz``: whether the process is alive, and whether it can serve."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from headwater.backend.state import BackendState

router = APIRouter(tags=["operation"])


class Alive(BaseModel):
    status: str = "ok"


class Check(BaseModel):
    status: str


class Readiness(BaseModel):
    status: str
    checks: Mapping[str, Check]


@router.get("/healthz")
async def alive() -> Alive:
    """The process runs. Its dependencies are not checked."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Not ready."}})
async def ready(request: Request, response: Response, backend: BackendState) -> Readiness:
    """Each dependency: 200 when all are up, 503 when one is down or this process is ending.

    Anyone may ask, so the reason is only in the log.
    """
    checks = {
        name: Check(status="up" if up else "down")
        for name, up in (await backend.probes.ask()).items()
    }
    if request.app.state.live.hub.streams.draining:
        checks["server"] = Check(status="down")
    up = all(check.status == "up" for check in checks.values())
    if not up:
        response.status_code = 503
    response.headers["cache-control"] = "no-store"
    return Readiness(status="ready" if up else "not ready", checks=checks)


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Counters of this process, for Prometheus."""
    response: Response = request.app.state.measures.render()
    return response
