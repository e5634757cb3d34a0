"""A keyed table with columns of many types, and values of each that are easily mixed up."""

from __future__ import annotations

import enum
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import CITEXT

from headwater.sql import track_table


class Mood(enum.Enum):
    GLAD = "glad"
    SAD = "sad"


class Folded(sa.types.TypeDecorator[str]):
    """An application's own type: what it stores is not what it was given."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.strip().lower()


class RawUuid(sa.types.TypeDecorator[uuid.UUID]):
    """A UUID as 16 bytes."""

    impl = sa.LargeBinary(16)
    cache_ok = True

    def process_bind_param(self, value: uuid.UUID | None, dialect: Any) -> bytes | None:
        return None if value is None else value.bytes

    def process_result_value(self, value: bytes | None, dialect: Any) -> uuid.UUID | None:
        return None if value is None else uuid.UUID(bytes=value)


ONE, TWO = uuid.UUID(int=1), uuid.UUID(int=2**128 - 1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
EAST = timezone(timedelta(hours=5, minutes=45))
TEXTS = ["a", "A", "b", "ä", "a ", "", "7", "a\u0308"]

# By column: its values, and others that where() takes for one of them.
VALUES: dict[str, tuple[list[Any], list[Any]]] = {
    "whole": ([0, 1, 7, -(2**31)], ["7", 7.0, Decimal(1), "+1"]),
    "big": ([0, 2**53 + 1, 2**53, -(2**63)], [str(2**53 + 1)]),
    "amount": ([Decimal("0.10"), Decimal("1"), Decimal("7.25")], ["0.1", 1, "1.000", 7.25]),
    "real": ([0.0, 0.1, 1 / 3, 1e300, -0.5], ["0.1", 0, "-0.0"]),
    "name": (TEXTS, [7]),
    "blind": (TEXTS, [7]),
    "folded_by_type": (TEXTS, [7]),
    "code": (["a", "A", "ab", "a  ", "b"], ["b "]),
    "mood": (list(Mood), ["glad", "SAD"]),
    "level": (["low", "high"], []),
    "unique": ([ONE, TWO], [str(TWO), str(ONE).upper()]),
    "raw_unique": ([ONE, TWO], []),
    "content": ([b"", b"a", b"\0\xff", b"A"], [bytearray(b"a")]),
    "at": (
        [NOON, NOON + timedelta(microseconds=1), NOON + timedelta(hours=1)],
        [NOON.astimezone(EAST), "2026-03-01T13:00:00+00:00", NOON.replace(tzinfo=None)],
    ),
    "local": ([NOON.replace(tzinfo=None)], [NOON.astimezone(EAST), "2026-03-01 12:00:00"]),
    "day": ([date(2026, 3, 1), date(2026, 3, 2)], ["2026-03-02"]),
    "moment": ([time(12), time(12, 0, 0, 1)], ["12:00"]),
    "flag": ([True, False], ["true", 0, 1]),
    "folded": (["a", "b", "A "], []),
}


def typed_table(dialect: str, collation: str = "NOCASE") -> tuple[sa.Table, sa.MetaData]:
    """The table, with the kinds of columns that a database has."""
    kinds: dict[str, Any] = {
        "whole": sa.Integer,
        "big": sa.BigInteger,
        "amount": sa.Numeric(10, 2),
        "real": sa.Float,
        "name": sa.String(20),
        "blind": sa.String(20, collation=collation),
        "folded_by_type": sa.String(20, collation="RTRIM") if dialect == "sqlite" else CITEXT,
        "code": sa.CHAR(3),
        "mood": sa.Enum(Mood),
        "level": sa.Enum("low", "high", name="level"),
        "unique": sa.Uuid,
        "raw_unique": RawUuid,
        "content": sa.LargeBinary,
        "at": sa.DateTime(timezone=True),
        "local": sa.DateTime,
        "day": sa.Date,
        "moment": sa.Time,
        "flag": sa.Boolean,
        "folded": Folded(10),
    }
    metadata = sa.MetaData()
    columns = [sa.Column(name, kind) for name, kind in kinds.items()]
    table = sa.Table("typed", metadata, sa.Column("id", sa.Integer, primary_key=True), *columns)
    track_table(table, keyed=True, filters=list(kinds))
    return table, metadata
