"""Tries of sign-ins for all processes, the places they come from, and satellites' former keys."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


class Moment(sa.types.TypeDecorator[Any]):
    """Text in SQLite."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(sa.Text())
        return dialect.type_descriptor(sa.DateTime(timezone=True))


def upgrade() -> None:
    op.create_table(
        "sign_in_places",
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("place", sa.String(64), nullable=False),
        sa.Column("last_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "place", name="pk_sign_in_places"),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_sign_in_places_user_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_sign_in_places_place", "sign_in_places", ["place"])
    op.create_index("ix_sign_in_places_last_at", "sign_in_places", ["last_at"])
    op.create_table(
        "sign_in_buckets",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("full_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_sign_in_buckets"),
    )
    op.create_index("ix_sign_in_buckets_full_at", "sign_in_buckets", ["full_at"])
    op.create_table(
        "retired_satellite_keys",
        sa.Column("key_hash", sa.String(64), nullable=False),
        sa.Column("satellite_id", sa.String(64), nullable=False),
        sa.Column("expires_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("key_hash", name="pk_retired_satellite_keys"),
        sa.ForeignKeyConstraint(
            ["satellite_id"],
            ["satellites.id"],
            name="fk_retired_satellite_keys_satellite_id",
            ondelete="CASCADE",
        ),
    )
    for column in ("satellite_id", "expires_at"):
        op.create_index(f"ix_retired_satellite_keys_{column}", "retired_satellite_keys", [column])


def downgrade() -> None:
    for name in ("retired_satellite_keys", "sign_in_buckets", "sign_in_places"):
        op.drop_table(name)
