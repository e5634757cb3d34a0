"""Forgets the runs that ended long ago, and trims ``news``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from headwater.eventlog import START, Record
from headwater.runs._store import PAGE, Store, in_parts


async def sweep(
    store: Store, before: datetime, active: Callable[[str], Iterable[Mapping[str, Any]]]
) -> int:
    """Forget the runs that ended before a moment. Returns how many.

    Arguments:
        active: the news from which another process learns of a run, if that is active.
    """
    after, forgotten = START, 0
    oldest: Record | None = None
    owners: set[tuple[str, str]] = set()
    while True:
        page = await store.log.read(store.news, after, PAGE)
        # Clocks differ. What was appended before something old is old.
        old = list(page.records)
        while old and old[-1].at >= before:
            old.pop()
        done = dict.fromkeys(str(one.data["id"]) for one in old if one.data.get("t") == "end")
        # A state holds the run's input and result, so only a few are in memory at once.
        for part in in_parts(list(done)):
            found = await asyncio.gather(*map(store.state, part))
            gone = [one for one in found if one is not None and one.ended]
            await store.forget(gone)
            owners.update((one.kind, one.owner) for one in gone)
            forgotten += len(gone)
        for run_id in dict.fromkeys(str(one.data.get("id")) for one in old):
            # Processes that start later must find an active run in ``news``.
            for news in active(run_id):
                await store.notify(news)
        oldest = old[-1] if old else oldest
        if len(old) < PAGE:
            break
        after = old[-1].offset
    if oldest is not None:
        await store.log.trim(store.news, before=oldest.offset.next())
    for kind, owner in owners:
        await store.trim_owner(kind, owner)
    return forgotten
