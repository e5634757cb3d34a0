"""What the models and the migrations share: names of constraints, an id's default, checks.

Databases were made with these. A change of what they make needs a new name, and a migration.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, String
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class RandomId(FunctionElement[str]):
    """32 random hexadecimal digits, as a server default."""

    inherit_cache = True
    type = String(32)


@compiles(RandomId)
def _random_id(_element: RandomId, _compiler: Any, **_: Any) -> str:
    return "replace(gen_random_uuid()::text, '-', '')"


@compiles(RandomId, "sqlite")
def _random_id_in_sqlite(_element: RandomId, _compiler: Any, **_: Any) -> str:
    return "lower(hex(randomblob(16)))"


def sqlite_check(condition: str, name: str) -> Any:
    """A CHECK that SQLite needs, since it takes any type in any column."""
    return CheckConstraint(condition, name=name).ddl_if(dialect="sqlite")


def postgresql_check(condition: str, name: str) -> Any:
    """A CHECK in PostgreSQL's own words."""
    return CheckConstraint(condition, name=name).ddl_if(dialect="postgresql")
