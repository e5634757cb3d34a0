"""Reports commits of transactions that wrote through a SQLAlchemy engine of this process.

The engine's ``commit`` event comes before the commit, so it only marks the connection. The commit
is done when the connection begins its next transaction or returns to the pool.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import event

_READS = re.compile(r"\s*(?:--[^\n]*\n\s*|/\*.*?\*/\s*|\()*(\w+)", re.DOTALL)
_DML = re.compile(r"\b(insert|update|delete|replace)\b", re.IGNORECASE)

# Seconds after which a transaction counts as over: nothing reports the end of one whose connection
# is lost.
_OPEN = 0.05

_WROTE = "headwater_wrote"
_COMMITTED = "headwater_committed"


def writes(statement: str) -> bool:
    """Whether a statement may change the database. In doubt it may."""
    found = _READS.match(statement)
    word = found[1].upper() if found else ""
    if word == "WITH":
        return _DML.search(statement) is not None
    return word not in {"SELECT", "VALUES", "EXPLAIN", "PRAGMA", "SHOW"}


class Commits:
    """The commits of one engine.

    Attributes:
        writing_until: the time, as of ``time.monotonic``, until which a transaction that wrote just
            now may go on; 0 when it has ended.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._subscribers: dict[object, tuple[str | None, Callable[[], None]]] = {}
        self.writing_until = 0.0
        event.listen(engine, "after_cursor_execute", self._executed)
        event.listen(engine, "begin", lambda connection: self._notify(connection.info))
        event.listen(engine, "commit", self._commit)
        event.listen(engine, "rollback", self._rollback)
        event.listen(engine, "checkin", lambda _, record: self._notify(record.info))

    def add(
        self,
        table: str | None,
        call: Callable[[], None],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Callable[[], None]:
        """Call after each commit of a transaction with a statement that names the table.

        Returns a function that ends the subscription.

        Arguments:
            table: None stands for any table.
            call: without ``loop`` it runs in any thread, and must return at once.
            loop: the event loop that is to call it.
        """
        if loop is not None:
            call = partial(_call_in, loop, call)
        token = object()
        self._subscribers[token] = (table, call)
        return lambda: self._subscribers.pop(token, None) and None

    def _executed(self, connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if self._subscribers and writes(statement):
            self.writing_until = time.monotonic() + _OPEN
            wrote = connection.info.setdefault(_WROTE, set())
            for token, (table, _call) in self._subscribers.items():
                if table is None or table in statement:
                    wrote.add(token)

    def _commit(self, connection: sa.Connection) -> None:
        wrote = connection.info.pop(_WROTE, None)
        if wrote is not None:
            connection.info.setdefault(_COMMITTED, set()).update(wrote)

    def _rollback(self, connection: sa.Connection) -> None:
        # Also after a commit that failed. ``begin`` reported what an earlier commit marked. A
        # connection that was invalidated, as by a cancelled statement, has no marks.
        if connection.invalidated:
            return
        wrote = connection.info.pop(_WROTE, None)
        committed = connection.info.pop(_COMMITTED, None)
        if wrote is not None or committed is not None:
            self.writing_until = 0.0

    def _notify(self, info: dict[Any, Any]) -> None:
        committed = info.pop(_COMMITTED, None)
        if committed is None:
            return
        self.writing_until = 0.0
        for token in committed:
            subscriber = self._subscribers.get(token)
            if subscriber is not None:
                subscriber[1]()


def _call_in(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(call)


_known: WeakKeyDictionary[sa.Engine, Commits] = WeakKeyDictionary()


def commits_of(engine: sa.Engine) -> Commits:
    """The one ``Commits`` of an engine."""
    found = _known.get(engine)
    if found is None:
        found = _known[engine] = Commits(engine)
    return found
