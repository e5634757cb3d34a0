"""Tries of sign-ins for all processes, the places they come from, and satellites' former keys."""

import sqlalchemy as sa
from alembic import op

from headwater.backend.times import Moment

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "sign_in_places",
        sa.Column(
            "user_id",
            sa.String(64),
            sa.ForeignKey("users.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("place", sa.String(64), primary_key=True, index=True),
        sa.Column("last_at", Moment, nullable=False, index=True),
    )
    op.create_table(
        "sign_in_buckets",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("full_at", sa.Double, nullable=False, index=True),
    )
    satellite = sa.ForeignKey("satellites.id", ondelete="CASCADE")
    op.create_table(
        "retired_satellite_keys",
        sa.Column("key_hash", sa.String(64), primary_key=True),
        sa.Column("satellite_id", sa.String(64), satellite, nullable=False, index=True),
        sa.Column("expires_at", Moment, nullable=False, index=True),
    )
