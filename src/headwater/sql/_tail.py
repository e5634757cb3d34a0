"""The tail: reads the changes of a table or query for a whole process, for all its streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Sequence
from contextlib import suppress

from headwater.errors import PositionError, SourceUnavailableError, UsageError
from headwater.feeds._source import JUDGED, Filter, Origin, Place, Sink, Source
from headwater.sql._judging import MOST_EXPRESSIONS, MOST_JUDGED, NO_QUESTIONS, Questions
from headwater.sql._reader import ChangeBatch, CommitWatch, Head, TailReader

logger = logging.getLogger("headwater.sql")

# Changes of one read: a gap of thousands takes few statements, and other tasks run between them.
BATCH = 500

# Seconds between two tries while the database is away.
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 1.0

# Seconds until the next read while changes wait for older transactions.
_HELD_DELAY = 0.05


class TableOrigin(Origin):
    """One table or live query of one database, as the hub follows it.

    Arguments:
        reader: reads it.
        name: for logs and error messages, such as ``"table logs"``.

    Attributes:
        head: where the tail is; None while it is not attached.
    """

    def __init__(self, reader: TailReader, name: str) -> None:
        self.name = name
        self._reader = reader
        self._lock = asyncio.Lock()
        self._sink: Sink | None = None
        self.head: Head | None = None
        self._wake = asyncio.Event()
        # The place it was woken for; None: read whatever there is.
        self._wanted: Place | None = None
        self._watch: CommitWatch | None = None
        self._task: asyncio.Task[None] | None = None
        self._retired: Place | None = None
        self._held: asyncio.TimerHandle | None = None
        self._stopping = False
        # Set while no read of changes is under way.
        self._idle = asyncio.Event()
        self._idle.set()
        # Why it cannot be read, if that lasts until somebody mends it.
        self._interrupted: SourceUnavailableError | None = None
        # What the database compared in its own way when its head was read.
        self._compared: frozenset[str] = frozenset()
        # By attribute, values that the database has compared once without an error.
        self._accepted: dict[str, set[Hashable]] = {}
        # What was asked last, of which values.
        self._asked: tuple[dict[str, set[Hashable]], Questions] = {}, NO_QUESTIONS

    async def locate(self, epoch: str, place: str) -> Place:
        """As ``Source.locate``."""
        found, head = self._reader.parse(place), self.head
        # While the tail is attached, its head saves a statement; a page checks again.
        if head is None or head.epoch != epoch or not head.place.includes(found):
            await self._reader.locate(epoch, found)
            self.reach(found)
        return found

    def reach(self, place: Place) -> None:
        """Read on, unless the tail has come to this place.

        No further read follows if the one that is under way comes to it.
        """
        head = self.head
        if head is not None and not head.place.includes(place):
            if not self._wake.is_set():
                self._wanted = place
                self._wake.set()
            elif self._wanted is not None and not self._wanted.includes(place):
                self._wanted = place

    def read_on(self) -> None:
        """Read whatever there is."""
        self._wanted = None
        self._wake.set()

    async def attach(self, sink: Sink, /) -> Place:
        async with self._lock:
            if self._sink is not None and self.head is not None:
                if self._sink is not sink:
                    raise UsageError(f"{self.name} has a sink already; one hub attaches to it")
                return self.head.place
            wake = self._wake = asyncio.Event()
            # Watch first: a commit from now on is either in the head or wakes the tail.
            watch = self._reader.watch_commits(self)
            try:
                head = await self._reader.head()
            except BaseException:
                await watch.stop()
                raise
            self._watch = watch
            self._sink, self.head, self._stopping = sink, head, False
            self._interrupted, self._compared = None, self._reader.judged
            self.read_on()
            self._task = asyncio.get_running_loop().create_task(
                self._run(sink, wake), name=f"headwater tail {self.name}"
            )
            return head.place

    async def detach(self) -> None:
        async with self._lock:
            self._stopping = True
            self.read_on()
            task, self._task = self._task, None
            if task is not None:
                # A cancelled read would cost its connection; it ends soon by itself.
                await asyncio.wait([task], timeout=2.0)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            self._sink = self.head = self._retired = None
            if self._held is not None:
                self._held.cancel()
            watch, self._watch = self._watch, None
            if watch is not None:
                await watch.stop()

    async def epoch(self) -> str:
        head = self.head
        return head.epoch if head is not None else (await self._reader.head()).epoch

    async def ready(self, wanted: Filter) -> None:
        if self._interrupted is not None:
            raise self._interrupted
        judged = self._judged
        asked = [(n, v) for each in wanted.any_of for n, v in each if n in judged]
        if not asked:
            return
        new = [(name, value) for name, value in asked if value not in self._accepted.get(name, ())]
        if new:
            await self._accept(wanted, new)
        # A read that is under way does not compare with it. What that read returns is older than
        # the page that the stream reads next.
        await self._idle.wait()

    async def _accept(self, wanted: Filter, new: Sequence[tuple[str, Hashable]]) -> None:
        """Try a filter with values that the database has not compared yet."""
        conditions = len(self._accepted.get(JUDGED, ()))
        if conditions + sum(name == JUDGED for name, _ in new) > MOST_EXPRESSIONS:
            raise SourceUnavailableError(
                self.name, f"streams wait with more than {MOST_EXPRESSIONS} different conditions"
            )
        values = sum(map(len, self._accepted.values())) - conditions
        if values + sum(name != JUDGED for name, _ in new) > MOST_JUDGED:
            raise SourceUnavailableError(
                self.name,
                f"streams wait for more than {MOST_JUDGED} different values that only the "
                "database can compare",
            )
        # A value that the database refuses must not come into the statement for all streams.
        await self._reader.try_filter(wanted)
        for name, value in new:
            self._accepted.setdefault(name, set()).add(value)

    async def _run(self, sink: Sink, wake: asyncio.Event) -> None:
        delay = 0.0
        trouble: str | None = None
        more = False
        while not self._stopping:
            # A wake-up during a read of several pieces waits for the last piece: a live query's
            # pieces are all of one moment.
            if not more:
                await wake.wait()
                wake.clear()
                if self._stopping:
                    return
                wanted, self._wanted = self._wanted, None
                head = self.head
                if wanted is not None and head is not None and head.place.includes(wanted):
                    continue
            more = False
            try:
                more = await self._deliver(sink)
            except SourceUnavailableError as error:
                if trouble is None:
                    logger.warning("%s; its streams %s", error, "end" if error.lasting else "wait")
                trouble = str(error)
                if error.lasting and not self._stopping:
                    self._interrupted = error
                    sink.interrupt(error)
            except Exception as error:
                # A fault in the program must not stop the streams for good either.
                if trouble != repr(error):
                    logger.exception("%s cannot be followed just now", self.name)
                trouble = repr(error)
            else:
                if trouble is not None:
                    logger.warning("%s can be read again", self.name)
                trouble, delay, self._interrupted = None, 0.0, None
                if more:
                    await asyncio.sleep(0)
                continue
            delay = min(max(delay * 2, _FIRST_DELAY), _LONGEST_DELAY)
            if not self._stopping:
                await asyncio.sleep(_FIRST_DELAY)
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay - _FIRST_DELAY):
                        await wake.wait()
            self.read_on()

    async def _deliver(self, sink: Sink) -> bool:
        """Read once and deliver. Returns whether there is more."""
        head = self.head
        assert head is not None
        self._idle.clear()
        try:
            questions = self._questions(sink)
            try:
                batch = await self._reader.batch(head, BATCH, questions)
            except (PositionError, SourceUnavailableError):
                raise
            except Exception:
                # It may refuse values that it took before a column got another type.
                if questions:
                    self._compare_anew(sink)
                raise
            if self._stopping:
                return False
            if self._reader.judged != self._compared:
                self._compare_anew(sink)
            self._pass_on(sink, head, batch)
            return batch.has_more
        except PositionError as error:
            now = await self._reader.head()
            self.head = now
            sink.reset(error.reason, now.place)
            return True
        finally:
            self._idle.set()

    @property
    def _judged(self) -> frozenset[str]:
        """The names that the database compares: of columns, and that of conditions."""
        return self._reader.judged | {JUDGED}

    def _compare_anew(self, sink: Sink) -> None:
        """End the streams: they come back, and what they wait for is compared in the new way."""
        self._compared = self._reader.judged
        self._accepted.clear()
        said = "its columns compare differently since a migration"
        sink.interrupt(SourceUnavailableError(self.name, said, public=True))

    def _questions(self, sink: Sink) -> Questions:
        """What the database shall compare with the rows of the next read."""
        if not self._accepted:
            return NO_QUESTIONS
        wanted = sink.wanted(self._judged)
        self._accepted = {
            name: both
            for name, values in wanted.items()
            if (both := self._accepted.get(name, set()) & values)
        }
        # While the same streams are there, the same is asked.
        known, questions = self._asked
        if self._accepted != known:
            known = {name: set(values) for name, values in self._accepted.items()}
            questions = Questions(known)
            self._asked = known, questions
        return questions

    def _pass_on(self, sink: Sink, head: Head, batch: ChangeBatch) -> None:
        self.head = Head(head.epoch, batch.head)
        if batch.changes or not head.place.includes(batch.head):
            sink.deliver(batch.changes, batch.head)
        if batch.retiring is not None and batch.retiring != self._retired:
            self._retired = batch.retiring
            sink.retire(batch.retiring)
        if self._held is not None:
            self._held.cancel()
            self._held = None
        if batch.held:
            self._held = asyncio.get_running_loop().call_later(_HELD_DELAY, self.read_on)


class TailSource(Source):
    """A selection of a table or live query, as a feed's function returns it."""

    # There may be one for each of thousands of streams.
    __slots__ = ("filter", "origin")

    origin: TableOrigin

    def __init__(self, origin: TableOrigin, wanted: Filter) -> None:
        self.origin = origin
        self.filter = wanted

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TailSource):
            return NotImplemented
        mine = (self.filter, self.window)
        return self.origin is other.origin and mine == (other.filter, other.window)

    def __hash__(self) -> int:
        return hash((self.filter, self.window))

    @property
    def identity(self) -> Hashable:
        return self

    async def locate(self, epoch: str, place: str) -> Place:
        return await self.origin.locate(epoch, place)
