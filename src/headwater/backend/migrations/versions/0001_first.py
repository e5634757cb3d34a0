"""Users, teams, and the tables of the feeds."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from headwater.backend.columns import NAMES, RandomId, postgresql_check, sqlite_check
from headwater.backend.times import Moment, Now, moment_check, sorted_moment_check
from headwater.sql import track_table

revision = "0001"
down_revision = None


def new_id() -> sa.Column[Any]:
    return sa.Column("id", sa.String(64), primary_key=True, server_default=RandomId())


def moment(name: str = "created_at") -> sa.Column[Any]:
    return sa.Column(name, Moment, server_default=Now(), nullable=False)


def text(name: str, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, sa.Text, server_default=default, nullable=False)


def short(name: str, default: str | None = None, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.String(32), server_default=default, nullable=False, **options)


def count(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, server_default=sa.text("0"), nullable=False)


def reference(name: str, target: str, *, nullable: bool = False, **options: Any) -> sa.Column[Any]:
    key = sa.ForeignKey(f"{target}.id", ondelete="CASCADE")
    return sa.Column(name, sa.String(64), key, nullable=nullable, **options)


def tables() -> sa.MetaData:
    """The tables as of this revision."""
    all_ = sa.MetaData(naming_convention=NAMES)
    sa.Table(
        "users",
        all_,
        new_id(),
        sa.Column("email", sa.String(254), unique=True, nullable=False),
        text("password_hash"),
        short("role", "global_user"),
        sa.Column("disabled", sa.Boolean, server_default=sa.false(), nullable=False),
        moment(),
        sqlite_check(moment_check("created_at"), "created_at"),
    )
    sa.Table(
        "sessions",
        all_,
        sa.Column("token_hash", sa.String(64), primary_key=True),
        reference("user_id", "users", index=True),
        moment(),
        sa.Column("expires_at", Moment, nullable=False, index=True),
    )
    sa.Table(
        "api_keys",
        all_,
        new_id(),
        reference("user_id", "users", index=True),
        text("name"),
        sa.Column("key_hash", sa.String(64), unique=True, nullable=False),
        moment(),
    )
    sa.Table("teams", all_, new_id(), text("name"), moment())
    sa.Table(
        "team_members",
        all_,
        reference("team_id", "teams", primary_key=True),
        reference("user_id", "users", primary_key=True, index=True),
        short("role", "team_user"),
        moment(),
    )
    sa.Table(
        "satellites",
        all_,
        new_id(),
        text("name"),
        reference("team_id", "teams", nullable=True, index=True),
        sa.Column("key_hash", sa.String(64), unique=True, nullable=False),
        moment(),
    )
    feeds(all_)
    return all_


def feeds(all_: sa.MetaData) -> None:
    """The tables that are tracked."""
    notifications = sa.Table(
        "notifications",
        all_,
        new_id(),
        reference("user_id", "users", nullable=True),
        reference("team_id", "teams", nullable=True),
        short("level", "info"),
        text("title"),
        text("body", ""),
        moment(),
        sa.CheckConstraint("(user_id IS NULL) <> (team_id IS NULL)", name="one_recipient"),
        sa.CheckConstraint("level IN ('info', 'success', 'warning', 'error')", name="level"),
        sqlite_check(
            "typeof(id) = 'text' AND typeof(title) = 'text' AND typeof(body) = 'text'", "texts"
        ),
        sqlite_check(moment_check("created_at"), "created_at"),
        sa.Index(None, "created_at"),
    )
    track_table(notifications, indexes=[("user_id",), ("team_id",)])
    log_entries = sa.Table(
        "log_entries",
        all_,
        new_id(),
        reference("user_id", "users"),
        short("level", "info"),
        text("source", ""),
        text("message"),
        text("fields", "{}"),
        moment(),
        sa.CheckConstraint(
            "level IN ('debug', 'info', 'warning', 'error', 'critical')", name="level"
        ),
        sqlite_check(
            "typeof(id) = 'text' AND typeof(user_id) = 'text' AND typeof(source) = 'text' "
            "AND typeof(message) = 'text'",
            "texts",
        ),
        sqlite_check(
            "CASE WHEN json_valid(fields) THEN json_type(fields) = 'object' ELSE 0 END", "fields"
        ),
        postgresql_check("json_typeof(fields::json) = 'object'", "fields"),
        sqlite_check(moment_check("created_at"), "created_at"),
        sa.Index(None, "created_at"),
    )
    track_table(log_entries, indexes=[("user_id",), ("user_id", "level"), ("user_id", "source")])
    client_activity = sa.Table(
        "client_activity",
        all_,
        new_id(),
        reference("user_id", "users"),
        reference("team_id", "teams"),
        reference("satellite_id", "satellites"),
        text("satellite_name", ""),
        text("client_name"),
        text("user_agent", ""),
        count("requests"),
        count("tool_calls"),
        moment("last_activity_at"),
        moment(),
        sa.UniqueConstraint("user_id", "team_id", "satellite_id", "client_name"),
        sqlite_check("requests >= 0 AND typeof(requests) = 'integer'", "requests"),
        postgresql_check("requests >= 0", "requests"),
        sqlite_check("tool_calls >= 0 AND typeof(tool_calls) = 'integer'", "tool_calls"),
        postgresql_check("tool_calls >= 0", "tool_calls"),
        sqlite_check(sorted_moment_check("last_activity_at"), "last_activity_at"),
        sqlite_check(moment_check("created_at"), "created_at"),
    )
    track_table(client_activity, keyed=True, filters=("user_id", "team_id"))
    access_changes = sa.Table(
        "access_changes",
        all_,
        new_id(),
        sa.Column("user_id", sa.String(64), nullable=False),
        moment(),
        sqlite_check(moment_check("created_at"), "created_at"),
        sa.Index(None, "created_at"),
    )
    track_table(access_changes)


def upgrade() -> None:
    tables().create_all(op.get_bind())
