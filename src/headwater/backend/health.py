"""``/healthz`` and ``/readyz``: whether the process is alive, and whether it can serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from headwater.backend.probes import Probes

__all__ = ["router"]

router = APIRouter(tags=["operation"])


class Alive(BaseModel):
    status: str = "ok"


class Check(BaseModel):
    status: str


class Readiness(BaseModel):
    status: str
    checks: Mapping[str, Check]


async def _probes(request: Request) -> Probes:
    found: Probes = request.app.state.probes
    return found


@router.get("/healthz")
async def alive() -> Alive:
    """The process runs. Its dependencies are not checked."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Not ready."}})
async def ready(
    request: Request, response: Response, probes: Annotated[Probes, Depends(_probes)]
) -> Readiness:
    """Each dependency: 200 when all are up, 503 when one is down or this process is ending.

    Anyone may ask, so what is wrong with it is in the log.
    """
    checks = {
        name: Check(status="up" if up else "down") for name, up in (await probes.ask()).items()
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
