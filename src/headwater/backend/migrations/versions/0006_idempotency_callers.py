"""Whose each Idempotency-Key is. Those of before are nobody's, and go within a day."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("idempotent_requests", sa.Column("caller", sa.String(80)))
    op.create_index(
        op.f("ix_idempotent_requests_caller_created_at"),
        "idempotent_requests",
        ["caller", "created_at"],
    )
