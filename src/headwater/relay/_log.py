"""The topic that a relay appends to, and the search for an append that may have been made."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headwater.eventlog import Bounds, EventLog, Offset
from headwater.relay._ledger import State

logger = logging.getLogger("headwater.relay")

# Records of one read while it searches for a key.
_READ = 500


@dataclass(frozen=True, slots=True)
class Found:
    """What a search of the topic found.

    Attributes:
        bounds: of the topic.
        offset: of the last event of the append that was searched for; None if there is none.
        lost: why the log is not the one that the relay knows; None if it is.
    """

    bounds: Bounds
    offset: Offset | None = None
    lost: str | None = None


class Log:
    """One topic of one log."""

    def __init__(self, log: EventLog, topic: str) -> None:
        self._log = log
        self._topic = topic

    async def bounds(self) -> Bounds:
        return await self._log.bounds(self._topic)

    async def append(self, events: Sequence[Mapping[str, Any]], key: str | None) -> Offset | None:
        """The last event's offset; None if it was appended before and is no longer kept."""
        records = await self._log.append(self._topic, events, key=key)
        return records[-1].offset if records else None

    async def look(self, state: State) -> Found:
        """Check whether the log is the one that the relay knows."""
        bounds = await self.bounds()
        return Found(bounds, lost=self._lost(state, bounds))

    async def find(self, state: State) -> Found:
        """The same, and search the events after the relay's offset for the pending append."""
        key, after, offset, others = state.key, state.offset, None, False
        while True:
            run = await self._log.read(self._topic, after, _READ)
            lost = self._lost(state, run.bounds)
            if lost is not None:
                return Found(run.bounds, lost=lost)
            if after == state.offset and run.bounds.earliest > after and key is not None:
                logger.warning(
                    "relay %s: topic %s was trimmed past an append that may have been made; "
                    "what is not there is appended",
                    state.name,
                    self._topic,
                )
            for record in run.records:
                if record.key is not None and record.key == key:
                    offset = record.offset
                elif record.key is not None and record.key.startswith(state.prefix):
                    others = True
            if not run.records:
                break
            after = run.records[-1].offset
        if others:
            lost = (
                f"topic {self._topic} has events of this relay that its database does not know "
                "of: the database was set back"
            )
        return Found(run.bounds, offset, lost)

    def _lost(self, state: State, bounds: Bounds) -> str | None:
        if bounds.epoch != state.log_epoch:
            return f"the {self._log.name} is not the one that it appended to, or was wiped"
        if bounds.latest < state.offset:
            return f"the {self._log.name} was set back to before what this relay brought"
        return None
