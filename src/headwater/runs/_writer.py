"""Appends the events of one attempt to the log: batched, numbered and in order.

Each append costs a commit, which is too much for one token. So deltas are appended 20 times a
second at most: at once if they come more slowly, and together if they come faster. They are stored
earlier when there are 4 KB of them, or when another event comes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from headwater.errors import RunCancelled, SourceUnavailableError, UsageError
from headwater.eventlog import EventLog
from headwater.eventlog._record import MAX_DEPTH, is_too_deep

logger = logging.getLogger("headwater.runs")

# Seconds between two appends of deltas. One that is late by less than EVERY does not delay the
# next one. So a producer that sends one delta each EVERY seconds waits for none.
EVERY = 0.05
# As soon as so many characters of deltas wait, they are stored.
SOON = 4096
# ``delta`` waits while more than BUFFER characters wait for the log. Each event counts EACH beside
# its data. To cancel a run means to store all of this first: 16 appends of small events.
BUFFER = 256 * 1024
EACH = 1024
# Characters of one delta as it is stored, and bytes of JSON for one, at most: a control character
# takes six. A longer text becomes several deltas.
PIECE, WIDEST = 64 * 1024, 6
# Events of one append. The limit keeps the ``end`` of a run among its last records.
BATCH = 16
# Bytes of an event's record beside its data, and the levels of JSON that are left for the data.
ENVELOPE = 512
# Bytes of a run's first record beside its input.
INPUT_ENVELOPE = 4096
LEVELS = MAX_DEPTH - 2
# Seconds between tries while the log is away.
SHORTEST, LONGEST = 0.05, 1.0


@dataclass(slots=True)
class _Event:
    """An event that waits. The data of a delta is its text so far."""

    name: str
    data: Any
    size: int


def plain_json(
    value: Any, log: EventLog, what: str, instead: str, envelope: int = ENVELOPE
) -> tuple[Any, int]:
    """Returns a copy of a JSON value or pydantic model, and its bytes. Raises UsageError.

    Arguments:
        what: names the value in the error.
        instead: says what to do with a value that is too large.
        envelope: bytes of its record beside the value.
    """
    dump = getattr(value, "model_dump", None)
    try:
        plain = value if dump is None else dump(mode="json")
        text = json.dumps(plain, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} has a lone surrogate, which cannot be stored as UTF-8") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{what} is not JSON: {error}") from error
    most = log.max_event_bytes - envelope
    if size > most:
        raise UsageError(
            f"{what} has {size} bytes of JSON, and at most {most} are allowed: {instead}"
        )
    if is_too_deep(text, LEVELS):
        raise UsageError(
            f"{what} is nested too deeply: at most {LEVELS} objects and lists in each other"
        )
    return json.loads(text), size


class Writer:
    """Stores the events of one attempt.

    Arguments:
        claim: the attempt's claim.
        allowed: returns whether this process may still write. After False the writer is closed.
    """

    def __init__(
        self,
        log: EventLog,
        topic: str,
        run_id: str,
        claim: str,
        allowed: Callable[[], Awaitable[bool]],
    ) -> None:
        self._log = log
        self._topic = topic
        self._run_id = run_id
        self._claim = claim
        self._allowed = allowed
        self._piece = max(1, min(PIECE, (log.max_event_bytes - ENVELOPE) // WIDEST))
        self._waiting: deque[_Event] = deque()
        self._size = 0
        # Whether the events that wait are stored without regard to EVERY.
        self._hurry = False
        self._stored = 0
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        self._closed: Literal["cancelled", "lost"] | None = None
        self._task: asyncio.Task[None] | None = None
        self._due = 0.0

    async def delta(self, text: str) -> None:
        """Add text. Waits while the buffer is full because the log is slow."""
        self._check()
        if not isinstance(text, str):
            raise UsageError(
                f"delta() takes a str, not {type(text).__name__}; send() takes other JSON values"
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError("delta(): a lone surrogate cannot be stored as UTF-8") from error
        for start in range(0, len(text), self._piece):
            await self._room()
            self._add_text(text[start : start + self._piece])

    async def send(self, name: str, data: Any) -> None:
        """Add an event, and store it at once with all events that wait. Raises UsageError."""
        self._check()
        instead = "store it elsewhere and send its address; delta() takes text of any length"
        plain, size = plain_json(data, self._log, f"send({name!r}): its data", instead)
        await self._room()
        self._waiting.append(_Event(name, plain, size + EACH))
        self._size += size + EACH
        self._begin(hurry=True)

    async def flush(self) -> None:
        """Wait until all events are stored. Raises RunCancelled if they cannot be stored."""
        while self._task is not None:
            self._begin(hurry=True)
            self._moved.clear()
            await self._moved.wait()
        self._check()

    def close(self, reason: Literal["cancelled", "lost"]) -> None:
        """Store nothing more, and raise RunCancelled with this reason from now on."""
        if self._closed is None:
            self._closed = reason
        self._waiting.clear()
        self._size = 0
        self._wake.set()
        self._moved.set()

    def _check(self) -> None:
        if self._closed is not None:
            raise RunCancelled(self._run_id, self._closed)

    async def _room(self) -> None:
        while self._size > BUFFER:
            self._moved.clear()
            await self._moved.wait()
            self._check()
        self._check()

    def _add_text(self, text: str) -> None:
        if not text:
            return
        last = self._waiting[-1] if self._waiting else None
        if last is not None and last.name == "delta" and last.size + len(text) <= self._piece:
            last.data += text
            last.size += len(text)
        else:
            self._waiting.append(_Event("delta", text, len(text)))
        self._size += len(text)
        self._begin()

    def _begin(self, *, hurry: bool = False) -> None:
        self._hurry = self._hurry or hurry
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        elif self._hurry or self._size >= SOON:
            self._wake.set()

    async def _run(self) -> None:
        """Store the events that wait, until there are none."""
        try:
            while self._waiting:
                await self._pace()
                await self._store()
        except Exception as error:
            logger.error("run %s: writing failed", self._run_id, exc_info=error)
            self.close("lost")
        finally:
            self._task = None
            self._hurry = False
            self._moved.set()

    async def _pace(self) -> None:
        """Wait until the next append of deltas is due, or its events must not wait."""
        loop = asyncio.get_running_loop()
        while (
            not self._hurry
            and self._size < SOON
            and (left := self._due - loop.time()) > 0
            and self._closed is None
        ):
            self._wake.clear()
            # Cheaper than a time-out, for each append of each run.
            timer = loop.call_later(left, self._wake.set)
            await self._wake.wait()
            timer.cancel()
        now = loop.time()
        self._due = min(max(self._due, now - EVERY), now) + EVERY

    async def _store(self) -> None:
        taken = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        self._hurry = self._hurry and bool(self._waiting)
        records = [
            {
                "t": "event",
                "c": self._claim,
                "s": self._stored + place,
                "e": one.name,
                "d": {"text": one.data} if one.name == "delta" else one.data,
            }
            for place, one in enumerate(taken, 1)
        ]
        self._stored += len(records)
        await self._append(records)
        if self._closed is None:
            self._size -= sum([one.size for one in taken])
        self._moved.set()

    async def _append(self, records: list[dict[str, Any]]) -> None:
        """Append, and retry while the log is away. Readers skip a record stored twice, by ``s``."""
        append = partial(self._log.append, self._topic, records)
        # Each run of the process logs this; the log and the signs of life warn once.
        if not await stored(append, self._may_append, logging.INFO, f"run {self._run_id} waits"):
            self.close("lost")

    async def _may_append(self) -> bool:
        return self._closed is None and await self._allowed()


async def stored(
    store: Callable[[], Awaitable[object]],
    allowed: Callable[[], Awaitable[bool]],
    level: int,
    waits: str,
) -> bool:
    """Call ``store``, and again while the log is away. False once that is not allowed any more.

    Arguments:
        level, waits: of the line in the process's log when the log is away.
    """
    delay = SHORTEST
    while await allowed():
        try:
            await store()
        except SourceUnavailableError as error:
            if delay == SHORTEST:
                logger.log(level, "%s: %s", waits, error)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, LONGEST)
        else:
            return True
    return False
