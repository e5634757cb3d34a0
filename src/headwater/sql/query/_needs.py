"""What live queries need of a database, and what it lacks: for ``headwater check --database``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from headwater.sql._links import LINKS
from headwater.sql._tracking import SINCE
from headwater.sql.query._live import LiveQuery


@dataclass(frozen=True, slots=True)
class QueryNeeds:
    """What one live query needs.

    Attributes:
        query: its name.
        links: what it needs, such as ``"orders (customer_id, id)"``.
        missing: a sentence for each table that lacks links, with the call that adds them.
        slow: its link columns that no index begins with, such as ``"orders.customer_id"``.
    """

    query: str
    links: tuple[str, ...]
    missing: tuple[str, ...]
    slow: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.query} needs the links {', '.join(self.links)}"
        return text + (f"; no index begins with {', '.join(self.slow)}" if self.slow else "")


def needs_of(connection: sa.Connection, queries: Iterable[LiveQuery]) -> list[QueryNeeds]:
    """Compare what live queries need with a database."""
    return [_needs(connection, query) for query in sorted(queries, key=lambda one: one.name)]


def _needs(connection: sa.Connection, query: LiveQuery) -> QueryNeeds:
    inspector = sa.inspect(connection)
    own = inspector.has_table(LINKS.name)
    needed, missing, slow = [], [], []
    for table, links, name, call in query.reader.links():
        needed.append(f"{table.name} ({', '.join(links)})")
        if not inspector.has_table(table.name, schema=table.schema):
            missing.append(f"{query.name}: the database has no table {name!r}")
            continue
        columns = [column["name"] for column in inspector.get_columns(table.name, table.schema)]
        found = None
        if own and SINCE in columns:
            found = connection.scalar(sa.select(LINKS.c.links).where(LINKS.c.name == name))
        known = [] if found is None else json.loads(found)
        lacking = [link for link in links if link not in known]
        if lacking:
            missing.append(
                f"{query.name}: the database does not track {', '.join(lacking)} of table "
                f"{name!r} as links; {call}"
            )
        indexes: list[Sequence[str | None]] = [
            inspector.get_pk_constraint(table.name, table.schema)["constrained_columns"],
            *(one["column_names"] for one in inspector.get_indexes(table.name, table.schema)),
            *(
                one["column_names"]
                for one in inspector.get_unique_constraints(table.name, table.schema)
            ),
        ]
        indexed = {columns[0] for columns in indexes if columns}
        slow += [f"{table.name}.{link}" for link in links if link not in indexed]
    return QueryNeeds(query.name, tuple(needed), tuple(missing), tuple(slow))
