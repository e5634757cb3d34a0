"""What is read of a table: a filter and a window, and what a client at a place lacks."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from headwater.feeds._source import Filter, Window
from headwater.sql._judging import Question
from headwater.sql._model import as_utc


class Lack(NamedTuple):
    """What decides how the changes after a place are found.

    Attributes:
        ran: transactions were running, and the client lacks their changes.
        older: the place is among the rows that are older than the tracking.
        left: the client was sent the removals of what left the window up to a moment.
        among: of that very moment, it was sent those up to a ``"number"`` or a ``"key"``.
        as_of: when the rows that left were read, there were changes that it lacks.
        walks: it is sent all items from the oldest on, and lacks no removal from before.
    """

    ran: bool = False
    older: bool = False
    left: bool = False
    among: str = ""
    as_of: bool = False
    walks: bool = False


class Wanted(NamedTuple):
    """What is wanted of a table: the rows of a filter, and of a window as of a moment."""

    filter: Filter
    window: Window | None
    now: datetime

    @property
    def column(self) -> str | None:
        """The column of the window."""
        return None if self.window is None else self.window.column

    @property
    def as_of(self) -> datetime | None:
        """As ``Page.as_of``."""
        return None if self.window is None else self.now

    def leaves(self, moment: datetime | None) -> datetime | None:
        """When a row with this moment leaves the window; None without a window."""
        if self.window is None or moment is None:
            return None
        return as_utc(moment) + self.window.length

    def has(self, moment: datetime | None) -> bool:
        """Whether a row with this moment is in the window, if there is one."""
        leaves = self.leaves(moment)
        return self.window is None or (leaves is not None and leaves > self.now)


class Selection(NamedTuple):
    """What is read of a table.

    Attributes:
        form: the form of the filter.
        column: the column of the window.
        shown: the column of all windows of the table: changes carry its value.
        questions: the form of what the database shall compare.
    """

    form: Filter
    column: str | None = None
    shown: str | None = None
    questions: tuple[Question, ...] = ()
