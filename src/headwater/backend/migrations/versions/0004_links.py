"""Tracking of the tables that live queries read, with the links that these need."""

from alembic import op

from headwater.sql.alembic import add_tracking

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for name, links in (
        ("users", ["id"]),
        ("teams", ["id"]),
        ("team_members", ["team_id"]),
        ("satellites", ["id", "team_id"]),
    ):
        add_tracking(op, name, keyed=True, moments=["created_at"], links=links)
    add_tracking(
        op,
        "client_activity",
        keyed=True,
        filters=["user_id", "team_id"],
        moments=["last_activity_at", "created_at"],
        links=["id", "satellite_id", "team_id", "user_id"],
    )
