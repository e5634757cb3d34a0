"""The tables.

Columns have defaults in the database itself where possible. The database refuses every value that
cannot be read back. So other programs may write with plain SQL.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Dialect,
    Double,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from headwater.backend.columns import NAMES, RandomId, postgresql_check, sqlite_check
from headwater.backend.times import Moment, Now, moment_check, sorted_moment_check
from headwater.sql import track

LogLevel = Literal["debug", "info", "warning", "error", "critical"]
NotificationLevel = Literal["info", "success", "warning", "error"]


class JsonObject(TypeDecorator[dict[str, Any]]):
    """A JSON object, as text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: dict[str, Any] | None, _: Dialect) -> str | None:
        if value is None:
            return None
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    def process_result_value(self, value: str | None, _: Dialect) -> dict[str, Any] | None:
        if value == "{}":
            return {}  # nearly all are empty
        return None if value is None else json.loads(value)


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)


def new_id() -> Any:
    """A primary key of 32 random hexadecimal digits, made by the database where none is given."""
    return mapped_column(String(64), primary_key=True, server_default=RandomId())


def belongs_to(table: str, **options: Any) -> Any:
    """The id of a row of another table. This row goes when that one goes."""
    return mapped_column(ForeignKey(f"{table}.id", ondelete="CASCADE"), **options)


def created() -> Any:
    """When the row was written."""
    return mapped_column(Moment, server_default=Now(), nullable=False)


def _in(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


def _texts(*columns: str) -> str:
    return " AND ".join(f"typeof({column}) = 'text'" for column in columns)


@track(keyed=True)
class User(Base):
    __tablename__ = "users"
    __table_args__ = (sqlite_check(moment_check("created_at"), "created_at"),)

    id: Mapped[str] = new_id()
    email: Mapped[str] = mapped_column(String(254), unique=True)
    password_hash: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(String(32), server_default="global_user")
    disabled: Mapped[bool] = mapped_column(server_default=false())
    created_at: Mapped[datetime] = created()


class Session(Base):
    """A session. Only the browser has its token; the table has the SHA-256."""

    __tablename__ = "sessions"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[str] = belongs_to("users", index=True)
    created_at: Mapped[datetime] = created()
    expires_at: Mapped[datetime] = mapped_column(Moment, index=True)


class SignInPlace(Base):
    """A device or a network from which a user signed in, as a hash."""

    __tablename__ = "sign_in_places"

    user_id: Mapped[str] = belongs_to("users", primary_key=True)
    place: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    last_at: Mapped[datetime] = mapped_column(Moment, index=True)


class SignInBucket(Base):
    """A bucket of sign-in tries, as the Unix time at which it is full again."""

    __tablename__ = "sign_in_buckets"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    full_at: Mapped[float] = mapped_column(Double, index=True)


class ApiKey(Base):
    """A program's key. It was shown once; the table has the SHA-256."""

    __tablename__ = "api_keys"

    id: Mapped[str] = new_id()
    user_id: Mapped[str] = belongs_to("users", index=True)
    name: Mapped[str] = mapped_column(Text)
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = created()


@track(keyed=True)
class Team(Base):
    __tablename__ = "teams"

    id: Mapped[str] = new_id()
    name: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = created()


@track(keyed=True)
class Membership(Base):
    __tablename__ = "team_members"

    team_id: Mapped[str] = belongs_to("teams", primary_key=True)
    user_id: Mapped[str] = belongs_to("users", primary_key=True, index=True)
    role: Mapped[str] = mapped_column(String(32), server_default="team_user")
    created_at: Mapped[datetime] = created()


@track(indexes=[("user_id",), ("team_id",)])
class Notification(Base):
    """A notification to one user or one team."""

    __tablename__ = "notifications"
    __table_args__ = (
        CheckConstraint("(user_id IS NULL) <> (team_id IS NULL)", name="one_recipient"),
        CheckConstraint(_in("level", get_args(NotificationLevel)), name="level"),
        sqlite_check(_texts("id", "title", "body"), "texts"),
        sqlite_check(moment_check("created_at"), "created_at"),
        Index(None, "created_at"),
    )

    id: Mapped[str] = new_id()
    user_id: Mapped[str | None] = belongs_to("users")
    team_id: Mapped[str | None] = belongs_to("teams")
    level: Mapped[str] = mapped_column(String(32), server_default="info")
    title: Mapped[str] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text, server_default="")
    created_at: Mapped[datetime] = created()


@track(indexes=[("user_id",), ("user_id", "level"), ("user_id", "source")])
class LogEntry(Base):
    """One line of a user's log."""

    __tablename__ = "log_entries"
    __table_args__ = (
        CheckConstraint(_in("level", get_args(LogLevel)), name="level"),
        sqlite_check(_texts("id", "user_id", "source", "message"), "texts"),
        sqlite_check(
            "CASE WHEN json_valid(fields) THEN json_type(fields) = 'object' ELSE 0 END", "fields"
        ),
        postgresql_check("json_typeof(fields::json) = 'object'", "fields"),
        sqlite_check(moment_check("created_at"), "created_at"),
        Index(None, "created_at"),
    )

    id: Mapped[str] = new_id()
    user_id: Mapped[str] = belongs_to("users")
    level: Mapped[str] = mapped_column(String(32), server_default="info")
    source: Mapped[str] = mapped_column(Text, server_default="")
    message: Mapped[str] = mapped_column(Text)
    fields: Mapped[dict[str, Any]] = mapped_column(JsonObject, server_default="{}")
    created_at: Mapped[datetime] = created()


@track(keyed=True)
class Satellite(Base):
    """A remote agent with its own key. Without a team, all users with the permission see it."""

    __tablename__ = "satellites"

    id: Mapped[str] = new_id()
    name: Mapped[str] = mapped_column(Text)
    team_id: Mapped[str | None] = belongs_to("teams", index=True)
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = created()


class RetiredSatelliteKey(Base):
    """A key that a satellite had before. It works on until its agent has the new one."""

    __tablename__ = "retired_satellite_keys"

    key_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    satellite_id: Mapped[str] = belongs_to("satellites", index=True)
    expires_at: Mapped[datetime] = mapped_column(Moment, index=True)


@track(keyed=True, filters=("user_id", "team_id"))
class ClientActivity(Base):
    """What one MCP client of a user did on one satellite, for one team."""

    __tablename__ = "client_activity"
    __table_args__ = (
        UniqueConstraint("user_id", "team_id", "satellite_id", "client_name"),
        sqlite_check("requests >= 0 AND typeof(requests) = 'integer'", "requests"),
        postgresql_check("requests >= 0", "requests"),
        sqlite_check("tool_calls >= 0 AND typeof(tool_calls) = 'integer'", "tool_calls"),
        postgresql_check("tool_calls >= 0", "tool_calls"),
        sqlite_check(sorted_moment_check("last_activity_at"), "last_activity_at"),
        sqlite_check(moment_check("created_at"), "created_at"),
    )

    id: Mapped[str] = new_id()
    user_id: Mapped[str] = belongs_to("users")
    team_id: Mapped[str] = belongs_to("teams")
    satellite_id: Mapped[str] = belongs_to("satellites")
    # Copied, so that an item names its satellite; satellites are not renamed.
    satellite_name: Mapped[str] = mapped_column(Text, server_default="")
    client_name: Mapped[str] = mapped_column(Text)
    user_agent: Mapped[str] = mapped_column(Text, server_default="")
    requests: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    tool_calls: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    last_activity_at: Mapped[datetime] = mapped_column(Moment, server_default=Now())
    created_at: Mapped[datetime] = created()


@track()
class AccessChange(Base):
    """A change of a user's rights. Each process follows these and checks open streams again."""

    __tablename__ = "access_changes"
    __table_args__ = (
        sqlite_check(moment_check("created_at"), "created_at"),
        Index(None, "created_at"),
    )

    id: Mapped[str] = new_id()
    user_id: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = created()


class IdempotentRequest(Base):
    """A request that came with an ``Idempotency-Key``, and how it was answered."""

    __tablename__ = "idempotent_requests"
    __table_args__ = (
        sqlite_check(sorted_moment_check("created_at"), "created_at"),
        Index(None, "created_at"),
        Index(None, "caller", "created_at"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    caller: Mapped[str | None] = mapped_column(String(80))
    body_hash: Mapped[str] = mapped_column(String(64))
    answer: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = created()
