"""``/api/streams`` and ``/api/tails``: who follows what, for administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from headwater.backend.auth.dependencies import requires, signed_in
from headwater.backend.problems import not_found
from headwater.backend.schemas import NO_CONTENT, Limit, PathId
from headwater.backend.state import BackendState
from headwater.backend.streams.schemas import StreamList, TailList
from headwater.backend.streams.service import Streams
from headwater.web.fastapi import GuardedRoute

router = APIRouter(tags=["streams"], route_class=GuardedRoute, dependencies=[signed_in])


async def _streams(request: Request) -> Streams:
    streams: Streams = request.app.state.streams
    return streams


AfterStream = Annotated[
    int, Query(ge=0, description="The `id` of the last stream of the page before this one.")
]
StreamsService = Annotated[Streams, Depends(_streams)]


@router.get("/streams", dependencies=[requires("streams.list")])
async def list_streams(
    streams: StreamsService, backend: BackendState, limit: Limit = 100, after: AfterStream = 0
) -> StreamList:
    """The open streams of all processes that share the event log, oldest first."""
    found = await streams.page(after, limit)
    emails = await backend.users.emails({each.user_id for each in found.streams if each.user_id})
    for each in found.streams:
        each.email = emails.get(each.user_id or "")
    return found


@router.delete("/streams/{stream_id}", **NO_CONTENT, dependencies=[requires("streams.close")])
async def close_stream(stream_id: PathId, streams: StreamsService) -> None:
    """End one open stream, of any process. Its client reconnects after some seconds."""
    if not await streams.close(stream_id):
        raise not_found("open stream", stream_id)


@router.get("/tails", dependencies=[requires("streams.list")])
async def list_tails(streams: StreamsService) -> TailList:
    """What the processes that share the event log read for their streams."""
    return await streams.tails()
