"""Values of filters: brought to the type of their column, or refused with a sentence.

The database compares what is stored with what is sent. So a value is checked before it is sent: a
value that the column cannot hold would be an error of the statement, for every stream that reads.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any, TypeVar

import sqlalchemy as sa

from headwater.errors import DeclarationError, FilterValueError
from headwater.sql._model import as_utc

M = TypeVar("M", date, time, datetime)


class _Null(Enum):
    """The type of ``NULL``."""

    NULL = "NULL"

    def __repr__(self) -> str:
        return "headwater.sql.NULL"


NULL = _Null.NULL
"""In ``where()``: the rows whose column is NULL."""

# Combinations of values of one filter. SQLite takes 32,766 parameters, and a statement has them
# up to six times.
MOST_VALUES = 5000

_DIGITS = re.compile(r"[+-]?[0-9]{1,40}")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def check_comparable(name: str, column: sa.Column[Any]) -> None:
    """Raises DeclarationError for a column whose type has no equality that a feed could use."""
    kind = stored_type(column.type)
    if isinstance(kind, (sa.JSON, sa.ARRAY, sa.PickleType)):
        raise DeclarationError(
            f"column {name!r} cannot be filtered by: values of type {kind!r} cannot be compared; "
            "filter by a column of its own for the part that is wanted"
        )


def column_value(
    name: str, column: sa.Column[Any], value: Any, dialect: sa.Dialect
) -> Hashable | None:
    """The value as the column's type has it; None for NULL. Raises FilterValueError."""
    if value is NULL:
        return None
    if value is None:
        raise FilterValueError(
            name,
            value,
            f"where({name}=None) has two meanings: .optional({name}={name}) leaves the filter out "
            f"when the value is None, where({name}=NULL) asks for rows without one",
        )
    kind = column.type
    try:
        if isinstance(kind, sa.types.TypeDecorator) and not isinstance(kind, sa.Interval):
            found = _decorated(kind, value, dialect)
        else:
            found = _plain_value(kind, value, dialect)
        hash(found)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        said = str(error) if isinstance(error, _RefusedError) else f"{_said(value)} does not fit it"
        raise FilterValueError(
            name, value, f"column {name!r} is of type {kind!r}: {said}"
        ) from error
    fit: Hashable = found
    return fit


def fit_values(
    columns: Mapping[str, sa.Column[Any]], equalities: Mapping[str, Any], dialect: sa.Dialect
) -> dict[str, list[Hashable | None]]:
    """By attribute, the values that ``where()`` was given, as its columns have them.

    Raises DeclarationError and FilterValueError.
    """
    found: dict[str, list[Hashable | None]] = {}
    combinations = 1
    for name, wanted in equalities.items():
        column = columns[name]
        check_comparable(name, column)
        several = isinstance(wanted, (list, tuple, set, frozenset))
        values = [column_value(name, column, v, dialect) for v in (wanted if several else [wanted])]
        found[name] = list(dict.fromkeys(values))
        combinations *= max(1, len(found[name]))
        # Before they are made.
        check_size(combinations)
    return found


def check_size(combinations: int) -> None:
    """Raises DeclarationError for a filter of more values than a statement takes."""
    if combinations > MOST_VALUES:
        raise DeclarationError(
            f"where() was given {combinations} combinations of values; at most {MOST_VALUES} can "
            "be selected by"
        )


def given(equalities: Mapping[str, Any], check: Callable[[Sequence[str]], None]) -> dict[str, Any]:
    """Those of ``optional()`` that are not None. The names of all are checked."""
    check([*equalities])
    return {name: value for name, value in equalities.items() if value is not None}


def is_plain(column: sa.Column[Any], dialect: sa.Dialect) -> bool:
    """Whether Python compares values of a column as a database does that stores them as declared.

    Of all other columns the database judges.
    """
    kind = column.type
    if isinstance(kind, sa.types.TypeDecorator):
        return False
    if isinstance(kind, sa.Integer):
        return True
    if isinstance(kind, sa.String):
        fixed = isinstance(kind, (sa.Enum, sa.CHAR, sa.NCHAR))
        return not fixed and not kind.collation
    # SQLite stores these as text or numbers in more than one form.
    exact = (sa.Boolean, sa.Uuid, sa.Date, sa.DateTime, sa.LargeBinary)
    return dialect.name == "postgresql" and isinstance(kind, exact)


class _RefusedError(ValueError):
    pass


def stored_type(kind: Any) -> Any:
    """The type below an application's own one, as the database stores it."""
    while isinstance(kind, sa.types.TypeDecorator):
        kind = kind.impl_instance
    return kind


def _decorated(kind: sa.types.TypeDecorator[Any], value: Any, dialect: sa.Dialect) -> Any:
    """A value of an application's own type. Its own conversion decides."""
    implemented = kind.dialect_impl(dialect)
    stored = kind.process_bind_param(value, dialect) if _converts(kind) else value
    impl = stored_type(implemented if implemented is not kind else kind.impl_instance)
    if stored is None:
        raise _RefusedError(f"{_said(value)} becomes NULL; ask for NULL by its name")
    fit = _plain_value(impl, stored, dialect)
    # Without a conversion the value itself is what is sent.
    return value if _converts(kind) else fit


def _converts(kind: sa.types.TypeDecorator[Any]) -> bool:
    return type(kind).process_bind_param is not sa.types.TypeDecorator.process_bind_param


def _plain_value(kind: sa.types.TypeEngine[Any], value: Any, dialect: sa.Dialect) -> Any:
    if isinstance(kind, sa.Enum):
        return _enum(kind, value)
    if isinstance(value, Enum):
        # A member of an enumeration of texts or numbers stands for its value.
        value = value.value
    for types, convert in _CONVERT.items():
        if isinstance(kind, types):
            return convert(kind, value, dialect)
    # A type that is not known here, such as CITEXT or INET: the database judges its values.
    return _text(kind, value, dialect) if isinstance(value, str) else value


def _enum(kind: sa.Enum, value: Any) -> Any:
    if kind.enum_class is None:
        wanted = value.value if isinstance(value, Enum) else value
        if wanted in kind.enums:
            return wanted
        raise _RefusedError(f"{_said(value)} is none of {', '.join(kind.enums)}")
    members: Any = kind.enum_class
    if isinstance(value, members):
        return value
    found = [each for each in members if value in (each.value, each.name)]
    if len(found) == 1:
        return found[0]
    raise _RefusedError(
        f"{_said(value)} is not one of {', '.join(str(each.value) for each in members)}"
    )


def _integer(kind: Any, value: Any, dialect: sa.Dialect) -> int:
    if isinstance(value, bool):
        raise _RefusedError(f"{value} is not a number")
    if isinstance(value, str):
        if not _DIGITS.fullmatch(value):
            raise _RefusedError(f"{_said(value)} is not a whole number")
        value = int(value)
    found = int(value) if isinstance(value, (int, float, Decimal)) else None
    if found is None or found != value:
        raise _RefusedError(f"{_said(value)} is not a whole number")
    bits = 64
    if dialect.name != "sqlite":
        bits = 16 if isinstance(kind, sa.SmallInteger) else 32
        bits = 64 if isinstance(kind, sa.BigInteger) else bits
    if not -(2 ** (bits - 1)) <= found < 2 ** (bits - 1):
        raise _RefusedError(f"{_said(found)} is out of its range")
    return found


def _boolean(_: Any, value: Any, __: sa.Dialect) -> bool:
    found = _BOOLEANS.get(str(value).lower()) if isinstance(value, (str, int)) else None
    if found is None:
        raise _RefusedError(f"{_said(value)} is not true or false")
    return found


def _text(_: Any, value: Any, __: sa.Dialect) -> str:
    if isinstance(value, (int, uuid.UUID)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _RefusedError(f"{_said(value)} is not a text")
    if "\0" in value:
        raise _RefusedError("a text cannot hold a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _RefusedError("half of a surrogate pair is not a character") from None
    # str() of a subclass of str may be another text.
    return str.__str__(value)


def _uuid(kind: sa.Uuid[Any], value: Any, _: sa.Dialect) -> Any:
    if isinstance(value, uuid.UUID):
        found = value
    elif isinstance(value, bytes):
        found = uuid.UUID(bytes=value)
    elif isinstance(value, str):
        found = uuid.UUID(value)
    else:
        raise _RefusedError(f"{_said(value)} is not a UUID")
    return found if kind.as_uuid else str(found)


def _bytes(_: Any, value: Any, __: sa.Dialect) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise _RefusedError(f"{_said(value)} is not bytes")
    return bytes(value)


def _moment(kind: type[M], value: Any, what: str) -> M:
    """A date, time or date-time. Its ISO text is taken too."""
    found = kind.fromisoformat(value) if isinstance(value, str) else value
    # To Python a date-time is a date too.
    if not isinstance(found, kind) or (kind is date and isinstance(found, datetime)):
        raise _RefusedError(f"{_said(value)} is not a {what}")
    return found


def _date_time(kind: sa.DateTime, value: Any, _: sa.Dialect) -> datetime:
    value = _moment(datetime, value, "date-time")
    # A naive one is UTC by the rule of this library.
    moment = as_utc(value)
    return moment if kind.timezone else moment.replace(tzinfo=None)


def _date(_: Any, value: Any, __: sa.Dialect) -> date:
    return _moment(date, value, "date")


def _time(_: Any, value: Any, __: sa.Dialect) -> time:
    return _moment(time, value, "time of day")


def _interval(_: Any, value: Any, __: sa.Dialect) -> timedelta:
    if not isinstance(value, timedelta):
        raise _RefusedError(f"{_said(value)} is not a timedelta")
    return value


def _number(kind: Any, value: Any, _: sa.Dialect) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal, str)):
        raise _RefusedError(f"{_said(value)} is not a number")
    try:
        found = Decimal(str(value)) if isinstance(value, (float, str)) else Decimal(value)
    except InvalidOperation:
        raise _RefusedError(f"{_said(value)} is not a number") from None
    # An exponent may stand for more digits than any column holds.
    if not found.is_finite() or abs(found.adjusted()) > 300:
        raise _RefusedError(f"{_said(value)} is out of its range")
    return found if kind.asdecimal else float(found)


_CONVERT: dict[type[Any] | tuple[type[Any], ...], Callable[[Any, Any, sa.Dialect], Any]] = {
    sa.Boolean: _boolean,
    sa.Integer: _integer,
    # Since SQLAlchemy 2.1 a Float is no Numeric.
    (sa.Numeric, sa.Float): _number,
    sa.Uuid: _uuid,
    sa.String: _text,
    sa.LargeBinary: _bytes,
    sa.DateTime: _date_time,
    sa.Date: _date,
    sa.Time: _time,
    sa.Interval: _interval,
}


def _said(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
