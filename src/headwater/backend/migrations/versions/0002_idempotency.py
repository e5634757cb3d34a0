"""Requests that came with an Idempotency-Key."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.ext.compiler import compiles

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SORTED_MOMENT = (
    "typeof(created_at) = 'text' AND created_at BETWEEN '1000' AND '9999~' "
    "AND date(substr(created_at, 1, 10), '+0 days') IS substr(created_at, 1, 10) "
    "AND datetime(created_at) IS NOT NULL AND substr(created_at, 11, 1) IN ('', ' ', 'T') "
    "AND substr(created_at, 12, 2) < '24' "
    "AND substr(created_at, 12) NOT GLOB '*[ z]*' "
    "AND created_at GLOB '????-??-?? ??:??:??*' "
    "AND (length(created_at) = 19 OR (length(created_at) BETWEEN 21 AND 26 "
    "AND substr(created_at, 20, 1) = '.' AND substr(created_at, 21) NOT GLOB '*[^0-9]*'))"
)


class Now(sa.sql.functions.FunctionElement[Any]):
    """The present moment, as a server default."""

    inherit_cache = True


@compiles(Now)
def _now(_element: Now, _compiler: Any, **_: Any) -> str:
    return "CURRENT_TIMESTAMP"


@compiles(Now, "sqlite")
def _now_in_sqlite(_element: Now, _compiler: Any, **_: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f', 'now')"


def upgrade() -> None:
    moment = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")
    made = op.create_table(
        "idempotent_requests",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("body_hash", sa.String(64), nullable=False),
        sa.Column("answer", sa.Text),
        sa.Column("created_at", moment, server_default=Now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_idempotent_requests")),
        sa.CheckConstraint(SORTED_MOMENT, name=op.f("ck_idempotent_requests_created_at")).ddl_if(
            dialect="sqlite"
        ),
    )
    op.create_index("ix_idempotent_requests_created_at", made.name, ["created_at"])


def downgrade() -> None:
    op.drop_table("idempotent_requests")
