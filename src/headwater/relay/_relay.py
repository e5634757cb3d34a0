"""The relay: a process becomes its holder, and appends the changes after the relay's place.

Why each change is in the log once:

1. The holder first writes its next append into the relay's row: the events, a key, and the place in
   the table where they end. Its next such write says that this append is in the log. So at most one
   append is in doubt at any moment, and the row has all of it.
2. Each write to the row names the holder's fence. When another process takes over, the writes of
   the former holder fail. So it begins no append that its successor does not know.
3. A process that takes over or retries first searches the log for the key, from the offset in the
   row; the log stores the key with each event. If the key is not there, it appends the events with
   the same key. An append of the former holder may arrive at the same time, or later. It has the
   same key, so the engine leaves it out for as long as it remembers keys.
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
    UsageError,
)
from headwater.eventlog import EventLog
from headwater.eventlog._record import check_topic
from headwater.feeds._source import Place
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
# Seconds until it reads again when changes wait for an older transaction to end.
_HELD_DELAY = 0.05
# Seconds between two lines in the log about the speed.
_TELL = 10.0


class _Tail:
    """What the watch of the table asks and wakes."""

    def __init__(self, wake: asyncio.Event) -> None:
        self.head: Head | None = None
        self._wake = wake

    def read_on(self) -> None:
        self._wake.set()

    def reach(self, _: Place) -> None:
        self._wake.set()


class Relay:
    """Moves one tracked table into one topic, each change once and in the table's order.

    Each row of an append-only table is one event: its columns by attribute name as JSON, as a feed
    of the table shows them. In a keyed table each row that was inserted or updated is such an
    event. Several updates of a row between two reads are one event. A deleted row is the event
    ``{"_removed": {"id": 7}}``, with its key.

    Any number of processes may run the same relay. One of them holds it. Another one takes over
    when the holder ends, or does not renew its lease for ``lease`` seconds. The relay creates its
    table ``headwater_relays`` in the table's database if it is missing.

    Arguments:
        table: a tracked table. Its ``order`` is the order of the events in the log.
        log: on an engine that keeps events when a process ends.
        topic: where events are appended. Other programs may append to it too.
        name: the relay's name, unique in the database, 1 to 200 characters of
            ``0-9 A-Z a-z . _ : / @ -``. Default: the topic's name.
        item: a pydantic model, or a function that makes an event of a row. It is called with a
            dict, and returns a dict, a model or a dataclass, or None to leave the row out.
        start: where a new relay begins: ``"beginning"`` with all rows of the table, ``"now"`` with
            the rows that are committed from now on.
        on_reset: what to do when the relay cannot continue where it was: the table was trimmed
            past it, emptied or restored, or the log was wiped, replaced or set back. ``"stop"``
            raises RelayStoppedError. ``"repeat"`` begins again with all rows of the
            table, so that none is missing. ``"skip"`` continues with what is certainly new, so that
            none comes twice.
        lease: seconds until another process takes over from a holder that does not renew its lease.
        batch: the most events of one append.

    Attributes:
        name: the relay's name.
        holds: whether this process holds the relay now.
        relayed: how many events this object has appended.

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
        check(table, log, item, start, on_reset, lease, batch)
        self.holds = False
        self.relayed = 0
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
        self._events = Events(table.name, model.key, item, log)
        self._wake = asyncio.Event()
        self._running = self._stopping = False
        self._tail = _Tail(self._wake)
        self._delay = 0.0
        self._trouble = ""
        self._told = (0.0, 0)

    def stop(self) -> None:
        """Let ``run`` release the relay for the next process, and return soon. Idempotent."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Relay until ``stop`` is called. Waits while the database or the log is away.

        Raises DeclarationError if the database has a relay of this name for another table or topic.
        Raises EncodingError for a row that cannot be an event, once all rows before it are in the
        log. Raises RelayStoppedError as ``on_reset`` says. Raises UsageError if it runs already.
        """
        if self._running:
            raise UsageError(f"relay {self.name!r} runs already: a second one needs its own Relay")
        self._running = True
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
            self._running = False
            await self._holder.release()

    async def _back_off(self, error: SourceUnavailableError) -> None:
        if str(error) != self._trouble:
            logger.warning("relay %s waits: %s", self.name, error)
        self._trouble = str(error)
        self._delay = min(max(self._delay * 2, _FIRST_DELAY), _LONGEST_DELAY)
        self._wake.clear()
        await self._pause(self._delay)

    async def _take(self) -> State | None:
        """Wait until this process is the holder. Returns None when the relay is to stop."""
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
        """Relay as the holder, until the relay is to stop or an error ends the hold."""
        self.holds = True
        logger.info("this process holds relay %s: %d events so far", self.name, state.relayed)
        watch = self._reader.watch_commits(self._tail)
        try:
            await self._reader.head()  # raises an error if its triggers are gone
            async with self._holder.alive(self._wake.set) as alive:
                await self._relay(await self._recover(state), alive)
        finally:
            self.holds, self._tail.head = False, None
            await watch.stop()

    async def _relay(self, state: State, alive: asyncio.Task[None]) -> None:
        while not self._stopping:
            if alive.done():
                alive.result()
            self._wake.clear()
            place = self._reader.parse(state.place)
            head = self._tail.head = Head(state.epoch, place, state.trimmed)
            try:
                batch = await self._reader.batch(head, self._most)
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
            # It goes on regularly without commits too: it checks that the log is the same, and
            # the place of a quiet table must not expire.
            if not await self._pause(_HELD_DELAY if batch.held else self._lease / 3):
                state = await self._look(state)
        if state != self._holder.stored:
            await self._holder.save(state)

    async def _recover(self, state: State) -> State:
        """Make the append that the row has prepared, unless the log has it."""
        found = await self._log.find(state)
        state = await self._continued(state, found)
        self._recovered()
        if state.key is None:
            return state
        if found.offset is not None:
            return state.appended(found.offset, len(state.pending()))
        return await self._append(state)

    async def _append(self, state: State) -> State:
        """Make the append that the row has prepared."""
        events = state.pending()
        await self._holder.confirm()
        offset = await self._log.append(events, state.key)
        self.relayed += len(events)
        self._recovered()
        return await self._look(state.appended(offset or state.offset, len(events)))

    async def _look(self, state: State) -> State:
        """Check that the log is still the same one."""
        return await self._continued(state, await self._log.look(state))

    async def _continued(self, state: State, found: Found) -> State:
        """The state with which the relay continues, if ``on_reset`` lets it, on this log."""
        if found.lost is None:
            return state
        self._check_on_reset(found.lost)
        if self._on_reset == "repeat":
            state = await self._anew(state)
        return await self._holder.save(
            replace(state, log_epoch=found.bounds.epoch, log_offset=str(found.bounds.latest))
        )

    async def _other_table(self, state: State, error: PositionError) -> State:
        expired = error.reason == "expired"
        how = "trimmed past what was relayed" if expired else "emptied, created again or restored"
        self._check_on_reset(f"table {self._source!r} was {how}", error)
        if self._on_reset == "repeat":
            state = await self._anew(state)
        else:
            head = await self._reader.head()
            # Trimmed rows are gone, and no row that is left was relayed.
            place = state.place if expired else str(head.place)
            state = replace(state, epoch=head.epoch, place=place, trimmed=head.trimmed)
        return await self._holder.save(state)

    def _check_on_reset(self, why: str, cause: Exception | None = None) -> None:
        """Raises RelayStoppedError unless ``on_reset`` lets the relay continue."""
        if self._on_reset == "stop":
            raise RelayStoppedError(self.name, why) from cause
        logger.warning("relay %s: %s; it continues: %s", self.name, why, self._on_reset)

    async def _anew(self, state: State) -> State:
        """The state from which all rows are relayed again."""
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
            logger.warning("relay %s continues", self.name)
        self._trouble, self._delay = "", 0.0
        now, (at, count) = time.monotonic(), self._told
        if now - at >= _TELL:
            if at and self.relayed > count:
                rate = (self.relayed - count) / (now - at)
                logger.info("relay %s: %d events, %.0f/s", self.name, self.relayed, rate)
            self._told = (now, self.relayed)
