"""What the watch of a SQLite file asks of a reader that it wakes."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from headwater.sql._commits import Commits

# Where a table or log is: what changes with each commit to it. None if the file does not have it.
State = tuple[Any, ...] | None


class FileReader(ABC):
    """One reader of a table or an event log, which the watch of its file wakes.

    Attributes:
        query: SQL whose rows are names with their states.
        name: which of the rows is this reader's.
        commits: those of this process, by each engine that writes for this reader.
        wake: called in the event loop when there may be something new.
        wake_on_failure: wake it too when the file cannot be read.
        loop: its event loop.
    """

    query: ClassVar[str]
    name: str
    commits: list[Commits]
    wake: Callable[[], None]
    wake_on_failure: ClassVar[bool] = False
    loop: asyncio.AbstractEventLoop

    @abstractmethod
    def position(self) -> Any:
        """Where the reader is. Called in the watch's thread, before the state is read."""

    @abstractmethod
    def on_state(self, state: State, before: Any) -> Callable[[], None] | None:
        """Compare a new state with the reader. Called in the watch's thread.

        Arguments:
            state: of its table or log.
            before: what ``position`` returned before the state was read.

        Returns what to call in the event loop; None if the reader has it already.
        """

    def on_opened(self) -> Callable[[], None] | None:
        """The file was opened, and may be another one. As ``on_state``."""
        return None
