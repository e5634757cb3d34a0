"""Handlers are declared in all the places where Python lets one declare functions."""

from __future__ import annotations

from headwater.eventlog import MemoryLog
from headwater.web.fastapi import LiveRouter, Source


def test_a_handler_may_use_what_is_assigned_after_it():
    live = LiveRouter()

    @live.feed("/f", item=dict)
    async def f(level: int = 0) -> Source:
        return log.topic(str(level))

    log = MemoryLog()
    assert [feed.feed.name for feed in live.feeds] == ["/f"]
