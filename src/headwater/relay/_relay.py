"""The relay: it takes its row in the database, and appends what the table has beyond its place.

Why each change is in the log once:

1. What is about to be appended is written into the row first: the events, a key, and the place in
   the table that they end at. The next such write says that the last one is in the log. So at any
   moment at most one append may or may not have been made, and the row has all of it.
2. A write to the row names the holder's fence. Once another process took over, those of the former
   holder fail, so it begins no append that its successor does not know of.
3. A process that takes over or retries first looks for the key in the log, from where the row says
   that the log was; keys are kept with the events. Only what is not there is appended, with the
   same key. An append of the former holder that arrives later, or meanwhile, has this key too, and
   the engine leaves it out for as long as it remembers keys.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from headwater.errors import (
    DeclarationError,
    PositionError,
    RelayStoppedError,
    SourceUnavailableError,
)
from headwater.eventlog import EventLog
from headwater.eventlog._record import check_topic
from headwater.relay._events import Events, check, checked_name
from headwater.relay._holder import Holder
from headwater.relay._ledger import Ledger, LostError, State
from headwater.relay._log import Found, Log
from headwater.sql import Table
from headwater.sql._reader import Head

logger = logging.getLogger("headwater.relay")

Start = Literal["beginning", "now"]
OnReset = Literal["stop", "repeat", "skip"]

# Seconds between two tries while the database or the log is away.
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 5.0
# Seconds until it reads again when only time brings more.
_HELD_DELAY = 0.05
# Seconds between two lines about how far it is.
_TELL = 10.0


class Relay:
    """Moves one tracked table into one topic, each change once and in the table's order.

    Of an append-only table each row is one event: its columns by attribute name as JSON, as a
    feed of the table shows them. Of a keyed one an inserted or updated row is the same, a row that
    was updated several times meanwhile once; and a row that was removed is
    ``{"_removed": {"id": 7}}``, with its key.

    Any number of processes may run the same relay: one of them holds it, and another takes over
    when that one ends or says nothing for ``lease`` seconds. The table ``headwater_relays`` is
    made in the table's database where it is missing.

    Arguments:
        table: a tracked table. Its ``order`` is that of the events in the log.
        log: on an engine that outlives the process.
        topic: where events are appended. Others may append to it too.
        name: the relay's name, unique in the database, 1 to 200 characters of
            ``0-9 A-Z a-z . _ : / @ -``. The topic unless given.
        item: a pydantic model, or a function that is given a row as a dict and returns what its
            event is to be: a dict, a model, a dataclass; None leaves the row out.
        start: where it begins the first time: ``"beginning"`` with all rows that are there,
            ``"now"`` with what is committed from then on.
        on_reset: what it does when it cannot go on where it was, because the table was trimmed
            past it, emptied or restored, or the log was wiped, replaced or set back. ``"stop"``:
            it raises RelayStoppedError. ``"repeat"``: it begins again with all rows that are
            there, so that none is missing. ``"skip"``: it goes on without what it cannot tell
            apart, so that none is there twice.
        lease: seconds after which another process takes over from one that says nothing.
        batch: the most events of one append.

    Attributes:
        name: as given.
        holds: this process holds the relay just now.
        relayed: how many events this object has brought into the log.

    Raises DeclarationError.
    """

    def __init__(
        self,
        table: Table,
        log: EventLog,
        topic: str,
        *,
        name: str | None = None,
        item: Any = None,
        start: Start = "beginning",
        on_reset: OnReset = "stop",
        lease: float = 5.0,
        batch: int = 500,
    ) -> None:
        self._topic = check_topic(topic)
        self.name = checked_name(topic if name is None else name)
        check(table, log, start, on_reset, lease, batch)
        self.holds = False
        self.relayed = 0
        self._table = table
        self._reader = table.reader
        self._log = Log(log, topic)
        self._start = start
        self._on_reset = on_reset
        self._lease = lease
        # On NATS a batch with a key takes one event less.
        self._most = min(batch, max(1, log.capabilities.max_batch - 1))
        self._ledger = Ledger(table.engine, self.name)
        self._holder = Holder(self._ledger, lease)
        model = table.reader.model
        self._source = model.tracking.name
        self._events = Events(table.name, model.key, item, log.max_event_bytes)
        self._wake = asyncio.Event()
        self._stopping = False
        self._head: Head | None = None
        self._delay = 0.0
        self._trouble = ""
        self._told = (0.0, 0)

    def stop(self) -> None:
        """Let ``run`` end soon, with the relay free for the next process. Idempotent."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Relay until ``stop`` is called; the database and the log may come and go meanwhile.

        Raises DeclarationError when the relay is another one in the database, EncodingError for a
        row that cannot be an event, once all before it is in the log, and RelayStoppedError.
        """
        try:
            while not self._stopping:
                try:
                    state = await self._take()
                    if state is not None:
                        await self._hold(state)
                except SourceUnavailableError as error:
                    await self._back_off(error)
                except LostError as error:
                    logger.warning("%s", error)
        finally:
            await self._holder.release()

    async def _back_off(self, error: SourceUnavailableError) -> None:
        if str(error) != self._trouble:
            logger.warning("relay %s waits: %s", self.name, error)
        self._trouble = str(error)
        self._delay = min(max(self._delay * 2, _FIRST_DELAY), _LONGEST_DELAY)
        self._wake.clear()
        await self._pause(self._delay)

    async def _take(self) -> State | None:
        """Become the holder, when no other process is. None: it is to stop."""
        self._wake.clear()
        while not self._stopping:
            state = await self._ledger.load()
            if state is None:
                await self._ledger.register(await self._first())
                continue
            self._check_same(state)
            taken = await self._holder.take(state)
            if taken is not None:
                return taken
            await self._pause(min(self._lease / 4, 1.0))
        return None

    async def _first(self) -> State:
        head = await self._reader.head()
        bounds = await self._log.bounds()
        place = head.place if self._start == "now" else self._reader.beginning()
        return State(
            self.name, secrets.token_hex(6), self._source, self._topic,
            head.epoch, str(place), head.trimmed, bounds.epoch, str(bounds.latest),
        )  # fmt: skip

    def _check_same(self, state: State) -> None:
        if (state.source, state.topic) != (self._source, self._topic):
            raise DeclarationError(
                f"relay {self.name!r} moves table {state.source!r} into topic {state.topic!r} in "
                f"this database, not table {self._source!r} into {self._topic!r}; give this one "
                "another name"
            )

    async def _hold(self, state: State) -> None:
        """Relay until another process takes over, something is away, or it is to stop."""
        self.holds = True
        logger.info("relay %s goes on: %d events so far", self.name, state.relayed)
        watch = self._reader.watch_commits(self._wake.set, lambda: self._head)
        try:
            await self._reader.head()  # raises an error if its triggers are gone
            async with self._holder.alive(self._wake.set) as alive:
                await self._relay(await self._recover(state), alive)
        finally:
            self.holds, self._head = False, None
            await watch.stop()

    async def _relay(self, state: State, alive: asyncio.Task[None]) -> None:
        while not self._stopping:
            if alive.done():
                alive.result()
            self._wake.clear()
            place = self._reader.parse(state.place)
            self._head = Head(state.epoch, place)
            try:
                batch = await self._reader.batch(
                    state.epoch, place, self._most, trimmed=state.trimmed
                )
            except PositionError as error:
                state = await self._other_table(state, error)
                continue
            texts, end, whole = self._events.of(batch.changes, self._most)
            if whole:
                end = batch.head
            if texts:
                state = await self._append(
                    await self._holder.save(state.intending(str(end), texts))
                )
                continue
            state = replace(state, place=str(end))
            if state != self._holder.stored:
                await self._holder.save(state)
            if batch.has_more or not whole:
                continue
            # It checks regularly in any case: that the log is the same, and that a place of a
            # quiet table does not grow old.
            if not await self._pause(_HELD_DELAY if batch.held else self._lease / 3):
                state = await self._look(state)
        if state != self._holder.stored:
            await self._holder.save(state)

    async def _recover(self, state: State) -> State:
        """Make the prepared append, unless it was made already."""
        found = await self._log.find(state)
        if found.lost is not None:
            state = await self._other_log(state, found)
        self._recovered()
        if state.key is None:
            return state
        if found.offset is not None:
            return state.appended(found.offset, len(state.pending()))
        return await self._append(state)

    async def _append(self, state: State) -> State:
        """Make the append that was just prepared."""
        events = state.pending()
        await self._holder.confirm()
        offset = await self._log.append(events, state.key)
        self.relayed += len(events)
        self._recovered()
        return await self._look(state.appended(offset or state.offset, len(events)))

    async def _look(self, state: State) -> State:
        """Whether the log is still the same."""
        found = await self._log.look(state)
        return state if found.lost is None else await self._other_log(state, found)

    async def _other_log(self, state: State, found: Found) -> State:
        assert found.lost is not None
        if self._on_reset == "stop":
            raise RelayStoppedError(self.name, found.lost)
        logger.warning("relay %s: %s; it goes on: %s", self.name, found.lost, self._on_reset)
        if self._on_reset == "repeat":
            state = await self._anew(state)
        return await self._holder.save(
            replace(state, log_epoch=found.bounds.epoch, log_offset=str(found.bounds.latest))
        )

    async def _other_table(self, state: State, error: PositionError) -> State:
        expired = error.reason == "expired"
        said = f"table {self._source!r} " + (
            "was trimmed past what was relayed" if expired else "was emptied, made anew or restored"
        )
        if self._on_reset == "stop":
            raise RelayStoppedError(self.name, said) from error
        logger.warning("relay %s: %s; it goes on: %s", self.name, said, self._on_reset)
        if self._on_reset == "repeat":
            state = await self._anew(state)
        else:
            head = await self._reader.head()
            # Trimmed rows are gone, and no row that is left was relayed.
            place = state.place if expired else str(head.place)
            state = replace(state, epoch=head.epoch, place=place, trimmed=head.trimmed)
        return await self._holder.save(state)

    async def _anew(self, state: State) -> State:
        """The place before all rows that exist now."""
        head = await self._reader.head()
        place = str(self._reader.beginning())
        state = replace(state, epoch=head.epoch, place=place, trimmed=head.trimmed)
        return state.without_pending()

    async def _pause(self, seconds: float) -> bool:
        """Wait for this time, or until something may have been committed. Returns True then."""
        if not self._stopping:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
        return self._stopping or self._wake.is_set()

    def _recovered(self) -> None:
        """Log that the database and the log can be used again."""
        if self._trouble:
            logger.warning("relay %s goes on", self.name)
        self._trouble, self._delay = "", 0.0
        now, (at, count) = time.monotonic(), self._told
        if now - at >= _TELL:
            if at and self.relayed > count:
                rate = (self.relayed - count) / (now - at)
                logger.info("relay %s: %d events, %.0f/s", self.name, self.relayed, rate)
            self._told = (now, self.relayed)
