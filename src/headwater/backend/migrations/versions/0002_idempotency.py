"""Requests that came with an Idempotency-Key."""

import sqlalchemy as sa
from alembic import op

from headwater.backend.columns import sqlite_check
from headwater.backend.times import Moment, Now, sorted_moment_check

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "idempotent_requests",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("body_hash", sa.String(64), nullable=False),
        sa.Column("answer", sa.Text),
        sa.Column("created_at", Moment, server_default=Now(), nullable=False),
        sqlite_check(sorted_moment_check("created_at"), "created_at"),
        sa.Index(None, "created_at"),
    )
