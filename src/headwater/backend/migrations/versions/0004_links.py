"""Tracked what live queries read. The next migration does that, as this version needs it."""

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    pass
