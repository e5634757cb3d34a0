"""Users, teams, and the tables of the feeds."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.ext.compiler import compiles

from headwater.sql import track_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
MOMENT = (
    "typeof({0}) = 'text' AND {0} BETWEEN '1000' AND '9999~' "
    "AND date(substr({0}, 1, 10), '+0 days') IS substr({0}, 1, 10) "
    "AND datetime({0}) IS NOT NULL AND substr({0}, 11, 1) IN ('', ' ', 'T') "
    "AND substr({0}, 12, 2) < '24' "
    "AND substr({0}, 12) NOT GLOB '*[ z]*'"
)
SORTED_MOMENT = (
    MOMENT + " AND {0} GLOB '????-??-?? ??:??:??*' "
    "AND (length({0}) = 19 OR (length({0}) BETWEEN 21 AND 26 "
    "AND substr({0}, 20, 1) = '.' AND substr({0}, 21) NOT GLOB '*[^0-9]*'))"
)


class Moment(sa.types.TypeDecorator[Any]):
    """Text in SQLite, and known to be a date-time."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(sa.Text())
        return dialect.type_descriptor(sa.DateTime(timezone=True))


class Default(sa.sql.functions.FunctionElement[Any]):
    """A server default in the words of each database."""

    inherit_cache = False

    def __init__(self, sqlite: str, other: str) -> None:
        super().__init__()
        self.words = {"sqlite": sqlite}
        self.other = other


@compiles(Default)
def _default(element: Default, compiler: Any, **_: Any) -> str:
    return element.words.get(compiler.dialect.name, element.other)


def new_id() -> sa.Column[Any]:
    return sa.Column(
        "id",
        sa.String(64),
        primary_key=True,
        server_default=Default(
            "lower(hex(randomblob(16)))", "replace(gen_random_uuid()::text, '-', '')"
        ),
    )


def moment(name: str = "created_at") -> sa.Column[Any]:
    now = Default("strftime('%Y-%m-%d %H:%M:%f', 'now')", "CURRENT_TIMESTAMP")
    return sa.Column(name, Moment, server_default=now, nullable=False)


def text(name: str, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, sa.Text, server_default=default, nullable=False)


def short(name: str, default: str | None = None, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.String(32), server_default=default, nullable=False, **options)


def count(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, server_default=sa.text("0"), nullable=False)


def reference(name: str, target: str, *, nullable: bool = False, **options: Any) -> sa.Column[Any]:
    key = sa.ForeignKey(f"{target}.id", ondelete="CASCADE")
    return sa.Column(name, sa.String(64), key, nullable=nullable, **options)


def check(name: str, condition: str, dialect: str | None = None) -> Any:
    """A CHECK; in the words of one database where it is named."""
    made = sa.CheckConstraint(condition, name=name)
    return made if dialect is None else made.ddl_if(dialect=dialect)


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
        check("created_at", MOMENT.format("created_at"), "sqlite"),
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
        check("one_recipient", "(user_id IS NULL) <> (team_id IS NULL)"),
        check("level", "level IN ('info', 'success', 'warning', 'error')"),
        check(
            "texts",
            "typeof(id) = 'text' AND typeof(title) = 'text' AND typeof(body) = 'text'",
            "sqlite",
        ),
        check("created_at", MOMENT.format("created_at"), "sqlite"),
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
        check("level", "level IN ('debug', 'info', 'warning', 'error', 'critical')"),
        check(
            "texts",
            "typeof(id) = 'text' AND typeof(user_id) = 'text' AND typeof(source) = 'text' "
            "AND typeof(message) = 'text'",
            "sqlite",
        ),
        check(
            "fields",
            "CASE WHEN json_valid(fields) THEN json_type(fields) = 'object' ELSE 0 END",
            "sqlite",
        ),
        check("fields", "json_typeof(fields::json) = 'object'", "postgresql"),
        check("created_at", MOMENT.format("created_at"), "sqlite"),
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
        check("requests", "requests >= 0 AND typeof(requests) = 'integer'", "sqlite"),
        check("requests", "requests >= 0", "postgresql"),
        check("tool_calls", "tool_calls >= 0 AND typeof(tool_calls) = 'integer'", "sqlite"),
        check("tool_calls", "tool_calls >= 0", "postgresql"),
        check("last_activity_at", SORTED_MOMENT.format("last_activity_at"), "sqlite"),
        check("created_at", MOMENT.format("created_at"), "sqlite"),
    )
    track_table(client_activity, keyed=True, filters=("user_id", "team_id"))
    access_changes = sa.Table(
        "access_changes",
        all_,
        new_id(),
        sa.Column("user_id", sa.String(64), nullable=False),
        moment(),
        check("created_at", MOMENT.format("created_at"), "sqlite"),
        sa.Index(None, "created_at"),
    )
    track_table(access_changes)


def upgrade() -> None:
    tables().create_all(op.get_bind())


def downgrade() -> None:
    tables().drop_all(op.get_bind())
