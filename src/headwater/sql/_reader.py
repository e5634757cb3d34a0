"""How a table is read: the interface between a tail and a database, and what all readers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Hashable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from headwater.errors import (
    DeclarationError,
    FilterValueError,
    SourceUnavailableError,
    UsageError,
)
from headwater.feeds._clock import utc_now
from headwater.feeds._source import JUDGED, Change, Filter, Page, Place, Window
from headwater.sql._faults import LASTING, TABLE_MISSING, unavailable
from headwater.sql._judging import NO_QUESTIONS, Questions, judged_by_type, judged_columns
from headwater.sql._model import TableModel
from headwater.sql._schemas import SCHEMAS
from headwater.sql._trim import Trim, remove
from headwater.sql._unreadable import Unreadable
from headwater.sql._wanted import Wanted

Row = Sequence[Any]
# The key and the moment of an item in a window.
Member = tuple[Mapping[str, Any], datetime]
P = TypeVar("P", bound=Place)
# PostgreSQL's states for an operator and for a type that does not exist.
_NOT_THERE = ("42883", "42704")


@dataclass(frozen=True, slots=True)
class Head:
    """Where a table is now: its epoch and the place of its latest change.

    ``trimmed``: changes up to this number, on PostgreSQL this transaction, may have been trimmed.
    """

    epoch: str
    place: Place
    trimmed: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """What a tail reads at once.

    Attributes:
        changes: all changes after the last place, in order, at most the limit asked for.
        head: the place they end at; the table's head unless there is more.
        retiring: positions that do not include this place expire soon; None if none do.
        held: some changes wait for older transactions; only a later read returns them.
    """

    changes: Sequence[Change]
    head: Place
    has_more: bool
    retiring: Place | None = None
    held: bool = False


class CommitWatch(ABC):
    """A running watch for commits."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop watching and free what it took. Idempotent."""


class WatchGroup(CommitWatch):
    """Stops several things in this order, all of them even if one raises an error."""

    def __init__(self, *stops: Callable[[], Awaitable[None]]) -> None:
        self._stops = AsyncExitStack()
        for stop in reversed(stops):
            self._stops.push_async_callback(stop)

    async def stop(self) -> None:
        await self._stops.aclose()


class Tail(Protocol):
    """What a watch asks of the tail that it wakes.

    Attributes:
        head: where the tail is, so that it is not woken for what it has. Read in any thread.
    """

    head: Head | None

    def read_on(self) -> None:
        """Read whatever there is."""

    def reach(self, place: Place) -> None:
        """Read on, unless the tail has come to this place."""


class TailReader(ABC):
    """Reads a table or live query. A tail needs no more of its reader than this.

    Arguments:
        engine: reads with it.
        name: for error messages, such as ``"table logs"``.
        listen: further engines of this process that write.

    Attributes:
        engine, name: the same.
        judged: the names that only the database can compare.
    """

    judged: frozenset[str]

    def __init__(
        self, engine: AsyncEngine, name: str, listen: Sequence[AsyncEngine | sa.Engine]
    ) -> None:
        self.engine = engine
        self.name = name
        self._writers = [
            one.sync_engine if isinstance(one, AsyncEngine) else one for one in (engine, *listen)
        ]

    @abstractmethod
    def parse(self, text: str) -> Place:
        """Read the text of a place. Raises PositionError."""

    @abstractmethod
    async def head(self) -> Head:
        """The present place and epoch of the table or query."""

    @abstractmethod
    async def locate(self, epoch: str, place: Any) -> None:
        """Raises PositionError unless the place can be resumed now."""

    @abstractmethod
    async def try_filter(self, wanted: Filter, /) -> None:
        """Raises FilterValueError or DeclarationError for what the database refuses."""

    @abstractmethod
    async def batch(
        self, head: Head, limit: int, questions: Questions = NO_QUESTIONS, /
    ) -> ChangeBatch:
        """At most ``limit`` changes after the place of a head, with the answers to ``questions``.

        Raises PositionError for a head of another epoch and for a place before a trim. Trims that
        the head knows of do not count: what they left is read.
        """

    @abstractmethod
    def watch_commits(self, tail: Tail, /) -> CommitWatch:
        """Wake a tail, in its event loop, when something may have been committed."""

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is committed at the end."""
        with self.translated():
            async with self.engine.begin() as connection:
                yield connection

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise SourceUnavailableError for an error of the database that will pass by itself."""
        try:
            yield
        except Exception as error:
            said = self._unavailable(error)
            if said is None:
                raise
            lasts = said in LASTING
            raise SourceUnavailableError(self.name, said, public=lasts, lasting=lasts) from error

    def _unavailable(self, error: Exception) -> str | None:
        """As ``unavailable`` of ``_faults``."""
        return unavailable(error)

    def broken(self, sentence: str) -> SourceUnavailableError:
        """The error while something is wrong that somebody must mend."""
        return SourceUnavailableError(self.name, sentence, public=True, lasting=True)

    def own_place(self, place: Place | None, kind: type[P]) -> P:
        """The place itself. Raises UsageError for one of another kind of source."""
        if not isinstance(place, kind):
            raise UsageError(f"{place!r} is not a place in {self.name}")
        return place


class TableReader(TailReader):
    """Reads one table. One subclass for each kind of database, and one for untracked tables.

    Each read is one statement, and holds no connection once it returns. Reads raise
    SourceUnavailableError while the database is away, and PositionError for a place that cannot
    be resumed.

    Attributes:
        model: the table's model.
        clock: returns the present time.
        judged: the attributes that the database compares in its own way. The table itself decides
            it with the model, so they are known once it was read.
    """

    def __init__(
        self, engine: AsyncEngine, model: TableModel, listen: Sequence[AsyncEngine | sa.Engine] = ()
    ) -> None:
        super().__init__(engine, f"table {model.name}", listen)
        self.model = model
        self.clock: Callable[[], datetime] = utc_now
        # The declaration that was checked last; it seldom changes.
        self._declared: str | None = ""
        self.judged = judged_by_type(model.columns, engine.dialect)

    @abstractmethod
    def beginning(self) -> Place:
        """The place before all changes."""

    def nothing(self) -> Place:
        """The place of a client that has no item and shall be sent all that there are."""
        return self.beginning()

    async def exceeds(self, _: Filter, __: Window | None, ___: int, /) -> bool:
        """As ``Source.exceeds``, for keyed tables."""
        return False

    async def try_filter(self, wanted: Filter, /) -> None:
        """As TailReader."""
        await self.page(wanted, None, 1)

    async def page(
        self,
        wanted: Filter,
        window: Window | None,
        limit: int,
        *,
        after: Place | None = None,
        before: Place | None = None,
    ) -> Page:
        """As ``Source.page``."""
        if limit < 1:
            raise UsageError(f"limit={limit} must be at least 1")
        try:
            if after is not None:
                return await self.page_after(self._wanted(wanted, window), limit, after)
            return await self.page_before(self._wanted(wanted, window), limit, before)
        except sa.exc.DBAPIError as error:
            self._check_refused(error, wanted)
            raise

    def _check_refused(self, error: sa.exc.DBAPIError, wanted: Filter) -> None:
        """Raises FilterValueError for a value, DeclarationError for what no value would mend."""
        state = getattr(error.orig, "sqlstate", None) or ""
        conditions = [value for each in wanted.any_of for n, value in each if n == JUDGED]
        if conditions and isinstance(error, (sa.exc.DataError, sa.exc.ProgrammingError)):
            raise DeclarationError(
                f"{self.name} cannot be filtered by {conditions[0]!r}: the database refuses it: "
                f"{error.orig}"
            ) from error
        pairs = [(n, v) for each in wanted.any_of for n, v in each if n in self.judged]
        if pairs and state in _NOT_THERE:
            names = " and ".join(dict.fromkeys(repr(name) for name, _ in pairs))
            raise DeclarationError(
                f"{self.name} cannot be filtered by {names}: PostgreSQL has no equality for such a "
                "type, as for json, xml and point; filter by a column with the part that you want. "
                f"Or the model has another type than the table: {str(error.orig).splitlines()[0]}"
            ) from error
        if pairs and (isinstance(error, sa.exc.DataError) or state.startswith("22")):
            name, value = pairs[0]
            kind = self.model.columns[name].type
            raise FilterValueError(
                name, value, f"column {name!r} is of type {kind!r}: the database refuses the value"
            ) from error

    def _wanted(self, wanted: Filter, window: Window | None = None) -> Wanted:
        return Wanted(wanted, window, self.clock())

    @abstractmethod
    async def page_after(self, wanted: Wanted, limit: int, after: Place, /) -> Page:
        """The changes just after a place."""

    @abstractmethod
    async def page_before(self, wanted: Wanted, limit: int, before: Place | None, /) -> Page:
        """The newest rows, or those just before a place."""

    async def revision(self) -> Hashable | None:
        """As ``Source.revision``, for all selections without a window."""
        return None

    async def members(self, _: Filter, __: Window, /) -> Sequence[Member]:
        """As ``Source.members``."""
        return ()

    @abstractmethod
    def trimming(self, cutoff: datetime | None, column: str | None, max_count: int | None) -> Trim:
        """A run that removes what is older than ``cutoff`` or beyond ``max_count``."""

    async def trim(
        self, *, max_age: timedelta | None, column: str | None, max_count: int | None, grace: float
    ) -> int:
        """Remove what is too old, in small transactions; positions before it expire.

        It is announced ``grace`` seconds before, so that tails send their streams a later position.
        """
        run = self.trimming(None if max_age is None else self.clock() - max_age, column, max_count)
        return await remove([run], self.writing, grace)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[AsyncConnection]:
        """A connection from the pool; errors of the database are SourceUnavailableError."""
        with self.translated():
            async with self.engine.connect() as connection:
                yield connection

    def change(
        self,
        place: Place,
        values: Mapping[str, Any],
        removed: bool,
        moment: datetime | None,
        compared: Mapping[str, Any] | None = None,
    ) -> Change:
        """The change of a row with these values, by attribute.

        ``compared``: the same for filters, with what the database compared.
        """
        key = None
        if self.model.tracking.keyed:
            key = self.key_of([values[name] for name in self.model.key])
        item = None if removed else values
        compared = values if compared is None else compared
        named = self.model.key
        return Change(place, compared, item, removed=removed, key=key, moment=moment, named=named)

    def key_of(self, row: Row) -> dict[str, Any]:
        """The key that a row begins with; the stored text of a value that cannot be read."""
        values = [str(each.raw) if isinstance(each, Unreadable) else each for each in row]
        return dict(zip(self.model.key, values, strict=False))

    def check_drift(self, wrong: Sequence[str]) -> None:
        """Raises SourceUnavailableError if the tracking is not what it should be."""
        if TABLE_MISSING in wrong:
            raise self.broken(TABLE_MISSING)
        if wrong:
            tracking = replace(self.model.tracking, registered=None)
            raise self.broken(f"{'; '.join(wrong)}. A migration with {tracking.call} mends it")

    async def compare(self, connection: AsyncConnection) -> bool:
        """Compare the table with its model and with what its tracking should be.

        Raises SourceUnavailableError if they differ. Before the table was read once, one that
        cannot be tracked is a DeclarationError: its declaration is wrong. Returns whether the
        statements must be made anew.
        """
        columns = [column.name for column in self.model.columns.values()]
        drift = SCHEMAS[connection.dialect.name].drift
        try:
            tracking, wrong = await connection.run_sync(drift, self.model.tracking, columns)
        except DeclarationError as error:
            if not self._declared:
                raise
            raise self.broken(str(error)) from error
        self.check_drift(wrong)
        model = self.model
        known = model.tracking, self.judged, model.types
        model.tracking, self.judged = tracking, await judged_columns(connection, model)
        return known != (model.tracking, self.judged, model.types)

    def check_declared(self, declared: str | None) -> None:
        """Check what the database keeps of the tracking; None if it keeps nothing."""
        if declared == self._declared:
            return
        tracking = self.model.tracking
        if declared is None:
            raise self.broken("the database does not track it; is the database migrated?")
        if not tracking.served_by(declared):
            self.check_drift([f"its triggers were made for {declared}, not {tracking.declared()}"])
        self._declared = declared
