"""Tells when a transaction that wrote was committed through a SQLAlchemy engine of this process.

The engine's ``commit`` event comes before the commit. So it only marks the connection; that the
commit is through is known when the connection begins its next transaction or is given back to the
pool, whichever is first.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import event

__all__ = ["Commits", "commits_of", "writes"]

_READS = re.compile(r"\s*(?:--[^\n]*\n\s*|/\*.*?\*/\s*|\()*(\w+)", re.DOTALL)
_DML = re.compile(r"\b(insert|update|delete|replace)\b", re.IGNORECASE)

# Seconds for which a transaction is taken to be open: what becomes of one whose connection is lost
# nobody tells.
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
    """The commits of one engine. ``call`` may run in any thread and must return at once."""

    def __init__(self, engine: sa.Engine) -> None:
        self._followers: dict[object, tuple[str | None, Callable[[], None]]] = {}
        self._wrote_at: float | None = None
        event.listen(engine, "after_cursor_execute", self._executed)
        event.listen(engine, "begin", self._begin)
        event.listen(engine, "commit", self._commit)
        event.listen(engine, "rollback", self._rollback)
        event.listen(engine, "checkin", self._checkin)

    @property
    def writing(self) -> bool:
        """Whether a transaction wrote just now whose commit or end was not told yet."""
        at = self._wrote_at
        return at is not None and time.monotonic() - at < _OPEN

    def add(self, table: str | None, call: Callable[[], None]) -> Callable[[], None]:
        """Call after each commit of a transaction with a statement that names the table.

        None stands for any table. Returns what ends it.
        """
        token = object()
        self._followers[token] = (table, call)
        return lambda: self._followers.pop(token, None) and None

    def _executed(
        self,
        connection: sa.Connection,
        _cursor: Any,
        statement: str,
        _parameters: Any,
        _context: Any,
        _many: bool,
    ) -> None:
        if self._followers and writes(statement):
            self._wrote_at = time.monotonic()
            wrote = connection.info.setdefault(_WROTE, set())
            for token, (table, _) in self._followers.items():
                if table is None or table in statement:
                    wrote.add(token)

    def _commit(self, connection: sa.Connection) -> None:
        wrote = connection.info.pop(_WROTE, None)
        if wrote is not None:
            connection.info.setdefault(_COMMITTED, set()).update(wrote)

    def _rollback(self, connection: sa.Connection) -> None:
        # Also after a commit that failed. What an earlier commit marked was told by the begin. A
        # connection that was invalidated, as by a cancelled statement, has nothing to forget.
        if connection.invalidated:
            return
        wrote = connection.info.pop(_WROTE, None)
        committed = connection.info.pop(_COMMITTED, None)
        if wrote is not None or committed is not None:
            self._wrote_at = None

    def _begin(self, connection: sa.Connection) -> None:
        self._tell(connection.info)

    def _checkin(self, _connection: Any, record: Any) -> None:
        self._tell(record.info)

    def _tell(self, info: dict[Any, Any]) -> None:
        committed = info.pop(_COMMITTED, None)
        if committed is None:
            return
        self._wrote_at = None
        for token in committed:
            follower = self._followers.get(token)
            if follower is not None:
                follower[1]()


_known: WeakKeyDictionary[sa.Engine, Commits] = WeakKeyDictionary()


def commits_of(engine: sa.Engine) -> Commits:
    """The one object that listens to an engine."""
    found = _known.get(engine)
    if found is None:
        found = _known[engine] = Commits(engine)
    return found
