"""Tracking as this version has it: its triggers, and the links that the live queries need."""

from alembic import op

from headwater.sql.alembic import add_tracking

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    add_tracking(op, "access_changes")
    add_tracking(op, "notifications", indexes=[("user_id",), ("team_id",)])
    by_user = [("user_id",), ("user_id", "level"), ("user_id", "source")]
    add_tracking(op, "log_entries", indexes=by_user)
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
