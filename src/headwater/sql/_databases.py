"""Which engines belong to one database, and in which database the tables of a process are."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Sequence
from itertools import combinations, product
from weakref import WeakKeyDictionary, WeakSet

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.errors import DeclarationError
from headwater.sql.sqlite._connections import file_of

# The engines by which tables are followed.
_followed: WeakKeyDictionary[sa.Table, WeakSet[sa.Engine]] = WeakKeyDictionary()


def follow(engine: AsyncEngine, tables: Iterable[sa.Table]) -> None:
    """Note that these tables are in the database of this engine."""
    for table in tables:
        _followed.setdefault(table, WeakSet()).add(engine.sync_engine)


def are_apart(one: sa.Engine, other: sa.Engine) -> bool:
    """Whether two engines are surely of two databases, whatever their drivers.

    A host has several names and a pooler other ports, so on PostgreSQL the database's name decides.
    """
    if one.dialect.name != other.dialect.name:
        return True
    if one.dialect.name == "sqlite":
        files = file_of(one), file_of(other)
        if None in files:
            return files != (None, None)
        return len({os.path.realpath(str(file)) for file in files}) > 1
    names = one.url.database, other.url.database
    return None not in names and names[0] != names[1]


def check_listen(engine: AsyncEngine, listen: Sequence[AsyncEngine | sa.Engine]) -> None:
    """Raises DeclarationError for an engine that writes to another database."""
    for each in listen:
        writer = each.sync_engine if isinstance(each, AsyncEngine) else each
        # A pooler may call PostgreSQL's databases by other names.
        same_kind = writer.dialect.name == engine.dialect.name
        if are_apart(engine.sync_engine, writer) and not (
            same_kind and writer.dialect.name == "postgresql"
        ):
            raise DeclarationError(
                f"listen= names an engine of {shown(writer)}, which is another database than "
                f"{shown(engine)}: its commits change nothing here; leave it out"
            )


def check_one_database(name: str, engine: AsyncEngine, tables: Sequence[sa.Table]) -> None:
    """Raises DeclarationError for tables that are known to be in two databases.

    Tables that this process follows are known. All others count as in the databases of those that
    have their MetaData, and if there are none, in this engine's.
    """
    if _apart(engine, tables) is None:
        return
    # Engines that nobody uses any more, such as those of an earlier test, do not count.
    gc.collect()
    found = _apart(engine, tables)
    if found is not None:
        (one, here), (other, there) = found
        raise DeclarationError(
            f"the {name} is over two engines: table {one.name!r} is followed in {shown(here)}, "
            f"table {other.name!r} in {shown(there)}. A live query reads one database: declare one "
            "for each, or a Poll that asks both and has wake= for them"
        )


def _apart(
    engine: AsyncEngine, tables: Sequence[sa.Table]
) -> tuple[tuple[sa.Table, sa.Engine], tuple[sa.Table, sa.Engine]] | None:
    known = [(table, _engines_of(table) or {engine.sync_engine}) for table in tables]
    for (one, here), (other, there) in combinations(known, 2):
        if all(are_apart(a, b) for a, b in product(here, there)):
            return (one, next(iter(here))), (other, next(iter(there)))
    return None


def _engines_of(table: sa.Table) -> set[sa.Engine]:
    own = set(_followed.get(table, ()))
    return own or {
        one for like in table.metadata.tables.values() for one in _followed.get(like, ())
    }


def shown(engine: AsyncEngine | sa.Engine) -> str:
    """An engine's address without its password."""
    return engine.url.render_as_string(hide_password=True)
