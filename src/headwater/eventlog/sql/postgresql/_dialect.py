"""The event log's tables and statements on PostgreSQL.

Each statement that reads starts at the log's own row and returns an epoch. It is made of the row's,
the table's identity and the server's life. So each reader notices a restored backup or a promoted
copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.errors import SourceUnavailableError
from headwater.eventlog.sql._storage import Dialect, Row
from headwater.eventlog.sql._tables import END, add_log, event_columns, topic_columns
from headwater.sql._faults import unavailable
from headwater.sql.postgresql._connections import LIFE, life_of
from headwater.sql.postgresql._types import XID8

METADATA = sa.MetaData()
add_log(METADATA)
sa.Table(
    "headwater_topics",
    METADATA,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    *topic_columns("C"),
    # Room for the next version of a row beside it, so that an append changes no index of topics.
    postgresql_with={"fillfactor": 50},
)
# No foreign key: it would look up the topic for each event, but the topic is locked by then.
sa.Table(
    "headwater_events",
    METADATA,
    sa.Column("topic_id", sa.BigInteger, primary_key=True, autoincrement=False),
    # 1, 2, 3 … within the topic, without gaps, in the order of commits.
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    # The transaction that inserted it, so that a reader finds the topics with new events.
    sa.Column("xid", XID8, server_default=sa.text("pg_current_xact_id()"), nullable=False),
    *event_columns("C"),
    sa.Index("headwater_events_xid", "xid", "topic_id"),
    sa.Index(
        "headwater_events_key", "topic_id", "key", "part",
        unique=True, postgresql_where=sa.text("key IS NOT NULL"),
    ),
)  # fmt: skip


EXISTS = sa.text(
    "SELECT epoch, (SELECT xid FROM headwater_events ORDER BY xid DESC LIMIT 1)"
    " >= pg_snapshot_xmax(pg_current_snapshot()) AS ahead, (SELECT quote_ident(n.nspname)"
    " FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE c.oid = headwater_log.tableoid) AS schema, (SELECT 1 FROM headwater_topics LIMIT 1)"
    " FROM headwater_log WHERE id = 1"
)
# Whether the tables are where they were, but this connection does not see them.
ELSEWHERE = sa.text(
    "SELECT to_regclass('headwater_log') IS NULL AND to_regclass(:table) IS NOT NULL"
)
# Events from another server's backup may have ids of transactions that are in the future on this
# server. They would count as new for ever.
HEAL = sa.text(
    "UPDATE headwater_events SET xid = CAST('0' AS xid8)"
    " WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())"
)
# Without this lock, processes that create the same tables at the same time would fail.
CREATING = sa.text("SELECT pg_advisory_xact_lock(hashtext('headwater_log'))")
# Reserves numbers of the topics that exist and that no other transaction holds.
RESERVE_FREE = sa.text(
    "WITH wanted AS MATERIALIZED (SELECT j.value ->> 0 AS name, CAST(j.value ->> 1 AS bigint) AS n"
    " FROM json_array_elements(CAST(:topics AS json)) AS j),"
    " free AS MATERIALIZED (SELECT t.id, wanted.n FROM wanted JOIN headwater_topics AS t"
    " ON t.name = wanted.name FOR UPDATE OF t SKIP LOCKED)"
    " UPDATE headwater_topics AS t SET latest = t.latest + free.n FROM free WHERE t.id = free.id"
    " RETURNING t.id, t.name, t.latest"
)
MISSING = sa.text(
    "SELECT j.value AS name FROM json_array_elements_text(CAST(:names AS json)) AS j"
    " WHERE NOT EXISTS (SELECT 1 FROM headwater_topics AS t WHERE t.name = j.value)"
)
INSERT = sa.text(
    "INSERT INTO headwater_events (topic_id, number, at, size, key, part, data)"
    " SELECT * FROM unnest(CAST(:topic_id AS bigint[]), CAST(:number AS bigint[]),"
    " CAST(:at AS bigint[]), CAST(:size AS integer[]), CAST(:key AS text[]),"
    " CAST(:part AS integer[]), CAST(:data AS text[]))"
)
NOTIFY = sa.text("SELECT pg_notify('headwater_log', :sender)")

_LOG = (
    "WITH l AS MATERIALIZED (SELECT left(encode(sha256(convert_to("
    "concat_ws(' ', epoch, tableoid, {life}), 'UTF8')), 'hex'), 32) AS epoch, trims,"
    " CAST(pg_current_snapshot() AS text) AS head, pg_is_in_recovery() AS standby"
    " FROM headwater_log WHERE id = 1)"
)
# The transaction of the latest event that the statement sees.
_NEWEST = (
    "(SELECT CAST(CAST(e.xid AS text) AS bigint) FROM headwater_events AS e"
    " ORDER BY e.xid DESC LIMIT 1) AS newest"
)
# The inner limit keeps the planner from reading and sorting the whole topic.
_RUN = (
    "{log}, t AS MATERIALIZED (SELECT l.epoch, t.id, {end} FROM l"
    " LEFT JOIN headwater_topics AS t ON t.name = :topic)"
    " SELECT t.*, e.number, e.at, e.size, e.key, e.data FROM t"
    " LEFT JOIN LATERAL (SELECT e.number, e.at, e.size, e.key, e.data FROM headwater_events AS e"
    " WHERE e.topic_id = t.id AND e.number {beyond} CAST(:number AS bigint)"
    " ORDER BY e.number {order} LIMIT :rows) AS e ON true ORDER BY e.number {order}"
)
# The last snapshot did not show the rows of transactions that began after it or were running then.
# The upper bound leaves out no row. It shows the planner, which may have no statistics yet, that
# this is a small part of the index.
_FIND = (
    "{log}, changed AS (SELECT topic_id FROM headwater_events WHERE xid >= CAST(:beginning AS xid8)"
    " AND xid < pg_snapshot_xmax(pg_current_snapshot())"
    " UNION SELECT topic_id FROM headwater_events WHERE xid = ANY (CAST(:running AS xid8[])))"
    " SELECT l.epoch, l.trims, l.head, l.standby, {newest}, t.id, t.name, {end} FROM l"
    " LEFT JOIN (changed JOIN headwater_topics AS t ON t.id = changed.topic_id) ON true"
)
_NEXT = (
    "{log} SELECT l.epoch, l.trims, e.* FROM l LEFT JOIN ("
    "SELECT w.place, e.* FROM unnest(CAST(:ids AS bigint[]), CAST(:last AS bigint[]))"
    " WITH ORDINALITY AS w (id, last, place)"
    " CROSS JOIN LATERAL (SELECT e.number, e.at, e.size, e.key,"
    " CASE WHEN e.number > w.last THEN e.data END AS data FROM headwater_events AS e"
    " WHERE e.topic_id = w.id AND e.number >= w.last ORDER BY e.number LIMIT :rows) AS e"
    " ORDER BY w.place, e.number LIMIT :rows) AS e ON true ORDER BY e.place, e.number"
)
_STATES = (
    "{log} SELECT l.epoch, l.trims, l.head, l.standby, {newest}, t.name, {end},"
    " p.at AS place_at, p.size AS place_size FROM l"
    " LEFT JOIN (json_array_elements(CAST(:places AS json)) AS j"
    " JOIN headwater_topics AS t ON t.name = j.value ->> 0"
    " LEFT JOIN headwater_events AS p"
    " ON p.topic_id = t.id AND p.number = CAST(j.value ->> 1 AS bigint)) ON true"
)
_BOUNDS = "{log} SELECT l.epoch, {end} FROM l LEFT JOIN headwater_topics AS t ON t.name = :topic"


_NUMBERS, _TEXTS = ("topic_id", "number", "at", "size", "part"), ("key", "data")


class PostgresDialect(Dialect):
    """PostgreSQL 13 and later.

    Writers of one topic queue at its row, so its numbers are in the order of its commits. Writers
    of different topics do not wait for each other.

    Attributes:
        find: topics with new events: id, name, latest.
        next: the next ``:rows`` events of topics ``:ids`` after their numbers ``:last``.
    """

    name = "event log (postgresql)"
    # Each statement is a transaction of its own, without BEGIN and ROLLBACK.
    reading: Mapping[str, object] = {"isolation_level": "AUTOCOMMIT"}
    # Writers of a topic queue at its row. A stricter level would refuse all but the first of them.
    writing: Mapping[str, object] = {"isolation_level": "READ COMMITTED"}
    # The largest append takes less on a slow server. Without this limit a caller would wait for a
    # host that hangs, or a dead link, until the system gives up the connection.
    patience = 20.0
    lock_free = sa.text(
        "SELECT id, latest, trimmed FROM headwater_topics"
        " WHERE name = :topic FOR UPDATE SKIP LOCKED"
    )
    reserving = sa.text(
        "INSERT INTO headwater_topics AS t (name, latest, trimmed)"
        " SELECT j.value ->> 0, CAST(j.value ->> 1 AS bigint), 0"
        " FROM json_array_elements(CAST(:topics AS json)) AS j"
        ' ORDER BY (j.value ->> 0) COLLATE "C"'
        " ON CONFLICT (name) DO UPDATE SET latest = t.latest + excluded.latest"
        " RETURNING id, name, latest"
    )
    finding_keys = sa.text(
        "SELECT t.name, e.number, e.at, e.size, e.key, e.data"
        " FROM json_array_elements(CAST(:keys AS json)) AS k"
        " JOIN headwater_topics AS t ON t.name = k.value ->> 0"
        " CROSS JOIN LATERAL (SELECT * FROM headwater_events AS e"
        " WHERE e.topic_id = t.id AND e.key = k.value ->> 1 ORDER BY e.part LIMIT 1000000) AS e"
        " ORDER BY e.number"
    )

    clearing = sa.text(
        "DELETE FROM headwater_events WHERE topic_id IN (SELECT CAST(value AS bigint)"
        " FROM json_array_elements_text(CAST(:ids AS json)))"
    )
    healing = (
        *Dialect.healing,
        sa.text(
            "SELECT setval(pg_get_serial_sequence('headwater_topics', 'id'), max(id))"
            " FROM headwater_topics HAVING max(id) IS NOT NULL"
        ),
    )

    def __init__(self) -> None:
        self._schema: str | None = None
        self._use(LIFE)

    def _use(self, life: str) -> None:
        """Use this SQL expression for the server's life, which differs after a promotion."""
        log = _LOG.format(life=life)
        self.bounds = sa.text(_BOUNDS.format(log=log, end=END))
        self.after = sa.text(_RUN.format(log=log, end=END, beyond=">=", order=""))
        self.before = sa.text(_RUN.format(log=log, end=END, beyond="<", order="DESC"))
        self.find = sa.text(_FIND.format(log=log, end=END, newest=_NEWEST))
        self.next = sa.text(_NEXT.format(log=log))
        self.states = sa.text(_STATES.format(log=log, end=END, newest=_NEWEST))

    def unavailable(self, error: BaseException) -> str | None:
        if isinstance(error, DBAPIError):
            state = getattr(error.orig, "sqlstate", None)
            if state == "25006":
                return "the server takes no writes: it is a standby, or set to read-only"
            if state == "42501":
                return f"this user may not do that: {str(error.orig).splitlines()[0]}"
            if state is not None and unavailable(error) is None:
                return f"PostgreSQL says {state}: {str(error.orig).splitlines()[0]}"
        return unavailable(error)

    async def exists(self, connection: AsyncConnection) -> bool:
        self._use(await life_of(connection))
        row = (await connection.execute(EXISTS)).first()
        if row is not None and row.ahead:
            await connection.execute(HEAL)
        await connection.commit()
        if row is not None:
            self._schema = row.schema
        return row is not None

    async def create(self, connection: AsyncConnection) -> None:
        if self._schema is not None:
            table = {"table": f"{self._schema}.headwater_log"}
            if (await connection.execute(ELSEWHERE, table)).scalar():
                # To create them here would begin a second log, unseen by other connections.
                raise SourceUnavailableError(
                    self.name,
                    f"its tables are in the schema {self._schema}, and this connection's "
                    "search_path leads elsewhere",
                )
        await super().create(connection)
        self._schema = (await connection.execute(EXISTS)).one().schema

    async def create_tables(self, connection: AsyncConnection) -> None:
        await connection.execute(CREATING)
        await connection.run_sync(METADATA.create_all)

    async def insert(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        # As literals: the driver takes several times as long for the elements of a list.
        columns = {name: _array([row[name] for row in rows]) for name in _NUMBERS}
        columns |= {name: _texts([row[name] for row in rows]) for name in _TEXTS}
        await connection.execute(INSERT, columns)


def _array(elements: Sequence[object]) -> str:
    return "{" + ",".join(map(str, elements)) + "}"


def _texts(texts: Sequence[str | None]) -> str:
    return _array(["NULL" if text is None else _quoted(text) for text in texts])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
