"""Open streams and tails as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic import Field

from headwater.backend.schemas import Result


class OpenStream(Result):
    id: str
    worker: int = Field(description="The process that has it.")
    opened_at: datetime
    user_id: str | None = Field(description="The user who opened it; null for a satellite's.")
    email: str | None
    client: str = Field(description="The client's address.")
    address: str = Field(description="The path of the request, with its query.")
    feed: str | None
    position: str | None = Field(description="The position of its client in the feed.")
    lag: int | None = Field(
        description="Events that were not written to it yet; null while it reads the source."
    )
    waiting_bytes: int = Field(
        description="Bytes that were written to it, and that its connection has not taken yet."
    )
    sent_bytes: int | None = Field(
        description="Bytes that its client has acknowledged, where that is known."
    )


class StreamList(Result):
    workers: list[int] = Field(
        description="The processes whose streams these are: the one that was asked, and those that "
        "share its event log and answered within a second."
    )
    open: int
    dropped: int = Field(
        description="Streams that were dropped since the processes began, because their clients "
        "read nothing."
    )
    streams: list[OpenStream]
    has_more: bool


class Tail(Result):
    worker: int = Field(description="The process that reads.")
    name: str = Field(description="The table, topic or function that is read.")
    changes: int = Field(description="How many it has read.")
    streams: Mapping[str, int] = Field(description="Open streams that show it, by their feed.")


class TailList(Result):
    workers: list[int]
    tails: list[Tail]
