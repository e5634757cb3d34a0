"""Appends and trims of a SQL log.

An append takes numbers under the topics' locks, finds known keys and inserts the events, in one
transaction. A trim removes the oldest records of a topic and leaves no hole.
"""

from __future__ import annotations

import json
import math
import secrets
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.eventlog._batcher import Asked, Batcher
from headwater.eventlog._record import Event, Offset, Record, Retention, mark_of, moment, ticks
from headwater.eventlog.sql._storage import Dialect, Storage
from headwater.eventlog.sql._tables import records_of

# The most events of one transaction, so that many callers do not lock the file for seconds.
MOST = (10_000, 0)
# Topics whose latest number a writer remembers.
SEEN = 10_000

# As of ``Dialect.heads``.
Heads = Mapping[object, tuple[int, int]]
Reserve = Callable[[AsyncConnection, Mapping[str, int]], Awaitable[Mapping[str, sa.Row[Any]]]]


class Append(NamedTuple):
    """One append that passed the checks. It has at least one event."""

    topic: str
    events: Sequence[Event]
    key: str | None


AskedAppend = Asked[Append, list[Record]]


def weigh(append: Append) -> tuple[int, int]:
    """The weights of an append, for ``MOST``: only its events count."""
    return len(append.events), 0


_BEGIN_ANEW = sa.text("UPDATE headwater_log SET epoch = :epoch WHERE id = 1")


class Seen:
    """The heads of the log after this process appended to it, for the latest topics."""

    def __init__(self) -> None:
        self._heads: dict[object, int] = {}

    def is_ahead(self, heads: Heads) -> bool:
        """Whether the log went back: one of its heads before an append is below what was noted."""
        return any(before < self._heads.get(key, before) for key, (before, _) in heads.items())

    def note(self, heads: Heads) -> None:
        """Remember the heads of an append that was committed."""
        for key, (_, after) in heads.items():
            self._heads.pop(key, None)
            self._heads[key] = after
        while len(self._heads) > SEEN:
            del self._heads[next(iter(self._heads))]


async def append_all(
    connection: AsyncConnection,
    appends: Sequence[Append],
    at: datetime,
    dialect: Dialect,
    reserve: Reserve | None = None,
    is_behind: Callable[[Heads], bool] | None = None,
) -> list[list[Record] | None]:
    """Do appends in their order, and return the records of each. The caller commits.

    Arguments:
        connection: in a transaction.
        appends: at least one.
        at: the time of all events.
        dialect: the database's statements.
        reserve: is used instead of the dialect's ``reserve``. It may leave out topics; the appends
            to these are not done and give None.
        is_behind: whether a log with these heads went back. Then it gets a new epoch.
    """
    reserve = reserve or dialect.reserve
    known: dict[tuple[str, str], list[Record]] = defaultdict(list)
    held: set[str] = set()
    keys = sorted({(one.topic, one.key) for one in appends if one.key is not None})
    if keys:
        locked = await reserve(connection, dict.fromkeys((topic for topic, _ in keys), 0))
        held = {topic for topic, _ in keys} - locked.keys()
        for row in await connection.execute(dialect.finding_keys, {"keys": json.dumps(keys)}):
            known[row.name, row.key] += records_of(row.name, [row])
    fresh: list[bool] = []
    counts: Counter[str] = Counter()
    for one in appends:
        fresh.append(one.key is None or (one.topic, one.key) not in known)
        if one.key is not None:
            known.setdefault((one.topic, one.key), [])
        if fresh[-1] and one.topic not in held:
            counts[one.topic] += len(one.events)
    topics = await reserve(connection, counts) if counts else {}
    new = [row.id for topic, row in topics.items() if row.latest == counts[topic]]
    if new:
        # Another program may have removed earlier topics with these ids, and left their events.
        await connection.execute(dialect.clearing, {"ids": json.dumps(new)})
    if topics and is_behind is not None and is_behind(dialect.heads(topics, counts)):
        await connection.execute(_BEGIN_ANEW, {"epoch": secrets.token_hex(16)})
    held |= counts.keys() - topics.keys()
    used = {topic: row.latest - counts[topic] for topic, row in topics.items()}
    at_ticks = ticks(at)
    at = moment(at_ticks)
    rows: list[dict[str, Any]] = []
    results: list[list[Record] | None] = []
    for one, is_new in zip(appends, fresh, strict=True):
        if one.topic in held:
            results.append(None)
        elif is_new:
            number, topic_id = used[one.topic], topics[one.topic].id
            used[one.topic] += len(one.events)
            records = []
            for part, event in enumerate(one.events):
                number += 1
                mark = mark_of(at_ticks, event.size)
                records.append(Record(one.topic, Offset((number,)), at, event.data, one.key, mark))
                rows.append(
                    {
                        "topic_id": topic_id,
                        "number": number,
                        "at": at_ticks,
                        "size": event.size,
                        "key": one.key,
                        "part": part,
                        "data": event.text,
                    }
                )
            if one.key is not None:
                known[one.topic, one.key] = records
            results.append(records)
        elif one.key is not None:
            results.append(list(known[one.topic, one.key]))
    if rows:
        await dialect.insert(connection, rows)
    return results


class SqlWriter:
    """Appends and trims of this process. It appends in one transaction at a time.

    The next transaction does all appends that arrive while one runs. This is faster, because each
    commit waits for the disk, and SQLite has one writer at a time.
    """

    def __init__(self, storage: Storage, clock: Callable[[], datetime]) -> None:
        self._storage = storage
        self._clock = clock
        self._batcher: Batcher[Append, list[Record]] = Batcher(
            storage.name, self._commit, weigh, MOST, patience=storage.dialect.patience or math.inf
        )
        self._seen = Seen()
        self._openings = 0

    def append(self, append: Append) -> Coroutine[Any, Any, list[Record]]:
        """The records, once they are committed. A cancelled caller may still have appended."""
        return self._batcher.ask(append)

    async def join(self, connection: AsyncConnection, append: Append) -> list[Record]:
        """Append in the caller's transaction, which only the caller ends."""
        dialect = self._storage.dialect
        (records,) = await self._storage.join(
            connection, lambda joined: append_all(joined, [append], self._clock(), dialect)
        )
        return records or []

    async def trim(self, topic: str | None, keep: Retention) -> int:
        """As EventLog."""
        oldest = None if keep.max_age is None else ticks(keep.oldest(self._clock()))
        if topic is not None:
            names, lock = [topic], LOCK
        else:
            limits = {"max_count": keep.max_count, "any_size": keep.max_bytes is not None}
            rows = await self._storage.read(_CANDIDATES, {**limits, "oldest": oldest})
            names = [row.name for row in rows if row.name is not None]
            # A topic that another transaction holds must not delay all others.
            lock = self._storage.dialect.lock_free
        removed = 0
        for name in names:
            # In steps, so that other writers wait for one step and not for all.
            step = partial(trim_some, topic=name, keep=keep, oldest=oldest, lock=lock)
            while count := await self._storage.write(step):
                removed += count
        return removed

    async def forget(self, topics: Sequence[str]) -> None:
        """As EventLog."""
        left = list(topics)
        while left:
            part, left = left[:FORGOTTEN], left[FORGOTTEN:]
            left += await self._storage.write(partial(forget_some, topics=part))

    async def close(self) -> None:
        """Refuse further appends, and wait for those that were asked for."""
        await self._batcher.close()

    async def _commit(self, group: Sequence[AskedAppend]) -> None:
        self._answer(group, await self._write(group))

    async def _write(
        self, group: Sequence[AskedAppend], reserve: Reserve | None = None
    ) -> list[list[Record] | None]:
        appends = [one.job for one in group]
        dialect = self._storage.dialect
        now: Heads = {}

        def is_behind(heads: Heads) -> bool:
            nonlocal now
            now = heads
            if self._openings != self._storage.openings:  # the tables may be others
                self._openings, self._seen = self._storage.openings, Seen()
            return self._seen.is_ahead(heads)

        results = await self._storage.write(
            lambda connection: append_all(
                connection, appends, self._clock(), dialect, reserve, is_behind
            )
        )
        self._seen.note(now)
        return results

    def _answer(
        self, group: Sequence[AskedAppend], results: Sequence[list[Record] | None]
    ) -> list[AskedAppend]:
        """Answer the appends that were done. Returns the others, whose topics are held."""
        held = []
        for one, records in zip(group, results, strict=True):
            if records is None:
                held.append(one)
            else:
                one.answer(records)
        return held


# The most rows of a topic that one transaction removes, and the most topics that it forgets.
STEP, FORGOTTEN = 5_000, 50

_FORGET = sa.text("DELETE FROM headwater_topics WHERE id = :id")

# Topics whose oldest record is beyond a limit.
_CANDIDATES = sa.text(
    "SELECT l.epoch, t.name FROM headwater_log AS l LEFT JOIN headwater_topics AS t"
    " ON t.latest > t.trimmed AND (:any_size OR t.latest - t.trimmed > :max_count"
    " OR EXISTS (SELECT 1 FROM headwater_events AS e WHERE e.topic_id = t.id"
    " AND e.number = t.trimmed + 1 AND e.at < :oldest))"
    " AND t.name NOT LIKE 'run:%' WHERE l.id = 1 ORDER BY t.name"
)
# Locks the topic, and returns its row.
LOCK = sa.text(
    "UPDATE headwater_topics SET trimmed = trimmed WHERE name = :topic"
    " RETURNING id, latest, trimmed"
)
_FIRST_YOUNG = sa.text(
    "SELECT number FROM headwater_events WHERE topic_id = :id AND at >= :oldest"
    " ORDER BY number LIMIT 1"
)
_LAST_BEYOND = sa.text(
    "SELECT number FROM (SELECT number, sum(size) OVER (ORDER BY number DESC) AS total"
    " FROM headwater_events WHERE topic_id = :id) AS sized WHERE total > :max_bytes"
    " ORDER BY number DESC LIMIT 1"
)
_DELETE = sa.text("DELETE FROM headwater_events WHERE topic_id = :id AND number <= :cut")
_MARK = sa.text("UPDATE headwater_topics SET trimmed = :cut WHERE id = :id")
_COUNT_TRIM = sa.text("UPDATE headwater_log SET trims = trims + 1 WHERE id = 1")


async def trim_some(
    connection: AsyncConnection,
    topic: str,
    keep: Retention,
    oldest: int | None,
    lock: sa.TextClause = LOCK,
) -> int:
    """Remove up to ``STEP`` of a topic's oldest records. Returns how many; 0: all were removed.

    ``lock`` runs first, so that no other transaction changes what is read afterwards. It may return
    no row for a topic that another transaction holds.
    """
    topic_row = (await connection.execute(lock, {"topic": topic})).first()
    if topic_row is None:
        return 0
    cut = topic_row.trimmed
    if keep.max_count is not None:
        cut = max(cut, topic_row.latest - keep.max_count)
    if keep.before is not None:
        cut = max(cut, min(keep.before[0] - 1, topic_row.latest))
    if oldest is not None:
        values = {"id": topic_row.id, "oldest": oldest}
        young = (await connection.execute(_FIRST_YOUNG, values)).scalar()
        cut = max(cut, topic_row.latest if young is None else young - 1)
    if keep.max_bytes is not None:
        values = {"id": topic_row.id, "max_bytes": keep.max_bytes}
        cut = max(cut, (await connection.execute(_LAST_BEYOND, values)).scalar() or 0)
    cut = min(cut, topic_row.trimmed + STEP)
    if cut <= topic_row.trimmed:
        return 0
    removed = await connection.execute(_DELETE, {"id": topic_row.id, "cut": cut})
    await connection.execute(_MARK, {"id": topic_row.id, "cut": cut})
    await connection.execute(_COUNT_TRIM)
    return removed.rowcount


async def forget_some(connection: AsyncConnection, topics: Sequence[str]) -> list[str]:
    """Remove topics with their events, up to ``STEP`` of each. Returns those that have more."""
    more = []
    for topic in sorted(topics):
        row = (await connection.execute(LOCK, {"topic": topic})).first()
        if row is None:
            continue
        cut = min(row.latest, row.trimmed + STEP)
        await connection.execute(_DELETE, {"id": row.id, "cut": cut})
        if cut < row.latest:
            await connection.execute(_MARK, {"id": row.id, "cut": cut})
            more.append(topic)
        else:
            await connection.execute(_FORGET, {"id": row.id})
    await connection.execute(_COUNT_TRIM)
    return more
