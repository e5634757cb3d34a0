"""Which columns Python may compare, and how the database is asked about all others.

A page is selected by SQL, a stream by a look-up of the row's values. Where Python's ``==`` is not
what the database does (collations, padded and case-blind texts, an application's own types), the
tail's statement compares the row with every value that a stream waits for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.feeds._source import JUDGED, Compared, Filter, OneOf
from headwater.sql._expressions import Column, Condition, Expression, Shape
from headwater.sql._filters import ShapeSlot
from headwater.sql._model import TableModel, TypeOf
from headwater.sql._tracking import quote
from headwater.sql._values import is_plain

# Different values of one table that streams may wait for and that the database compares: each is
# compared with each new row.
MOST_JUDGED = 5000

# Different conditions of streams that the database judges for each new row.
MOST_EXPRESSIONS = 20_000

# Comparisons in one column of an answer: PostgreSQL's functions take up to 100 arguments.
_IN_A_COLUMN = 90

# Of each column: its name, its type and the table's DDL.
_SQLITE = sa.text(
    "SELECT info.name, info.type, made.sql FROM sqlite_master AS made, "
    "pragma_table_info(made.name) AS info "
    "WHERE made.type IN ('table', 'view') AND lower(made.name) = lower(:name)"
)

# Of each column: its name, its type, whether equal texts are the same text, and the SQL of its
# type, without a length or a domain's conditions, which a value that is gone may break.
_POSTGRESQL = sa.text(
    "SELECT a.attname, t.typname, coalesce(c.collisdeterministic, true), "
    "format_type(coalesce(nullif(t.typbasetype, 0), t.oid), -1) FROM pg_attribute a "
    "JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation c ON c.oid = a.attcollation "
    "WHERE a.attrelid = to_regclass(:name) AND a.attnum > 0 AND NOT a.attisdropped"
)

# An attribute with the number of values that it is compared with, or a shape of expressions.
Question: TypeAlias = tuple[str, "int | Shape"]
# The condition that an attribute has a value.
IsValue: TypeAlias = "Callable[[str, Any], Condition]"

_TYPES: tuple[tuple[type[Any], frozenset[str]], ...] = (
    (sa.Boolean, frozenset({"bool"})),
    (sa.Integer, frozenset({"int2", "int4", "int8"})),
    (sa.Uuid, frozenset({"uuid"})),
    (sa.String, frozenset({"text", "varchar", "name"})),
    (sa.Date, frozenset({"date"})),
    (sa.LargeBinary, frozenset({"bytea"})),
)


class Questions:
    """The values that the database shall compare with each row of a batch.

    Attributes:
        form: each attribute with the number of its parameters, and each shape of expressions: equal
            for statements that are equal.
        parameters: of the statement.
    """

    def __init__(self, wanted: Mapping[str, Iterable[Any]]) -> None:
        self._values: dict[str, list[Any]] = {}
        self.parameters: dict[str, Any] = {}
        self._expressions: list[Sequence[Expression]] = []
        form: list[Question] = []
        by_shape: dict[Shape, list[Expression]] = {}
        for each in wanted.get(JUDGED, ()):
            by_shape.setdefault(each.shape, []).append(each)
        for shape in sorted(by_shape):
            self.parameters |= _asked_values(len(form), by_shape[shape])
            self._expressions.append(by_shape[shape])
            form.append((JUDGED, shape))
        for name in sorted(wanted):
            if name == JUDGED:
                continue
            values = [each for each in wanted[name] if each is not None]
            # A power of two, so that few statements differ; NULL equals nothing.
            size = 1 << max(0, len(values) - 1).bit_length()
            for at in range(size):
                self.parameters[_parameter(len(form), at)] = (
                    values[at] if at < len(values) else None
                )
            form.append((name, size))
            self._values[name] = values
        self.form = tuple(form)

    def answered(self, row: Sequence[Any], values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values of a row with what the database answered, at the end of the row."""
        if not self.form:
            return values
        found = Compared(values)
        at = len(row) - self.width
        true: list[Hashable] = []
        for each in self._expressions:
            true += [each[number] for number in json.loads(row[at] or "[]")]
            at += 1
        if self._expressions:
            found[JUDGED] = OneOf(true)
        for name, size in self.form:
            if isinstance(size, Shape):
                continue
            answers: list[Any] = []
            for part in row[at : at + _columns(size)]:
                answers += json.loads(part)
            at += _columns(size)
            pairs = zip(self._values[name], answers, strict=False)
            equal = [value for value, yes in pairs if yes]
            found[name] = OneOf([*equal, None] if answers[-1] else equal)
        return found

    def __bool__(self) -> bool:
        return bool(self.form)

    @property
    def width(self) -> int:
        """How many columns the answers are."""
        return sum(_columns(size) for _, size in self.form)

    @classmethod
    def about(cls, wanted: Filter) -> Questions:
        """The conditions of one filter."""
        asked = [value for each in wanted.any_of for name, value in each if name == JUDGED]
        return cls({JUDGED: dict.fromkeys(asked)}) if asked else NO_QUESTIONS


NO_QUESTIONS = Questions({})


@dataclass(frozen=True, slots=True)
class _ListedShape(ShapeSlot):
    """A shape whose values are the columns of a list of expressions."""

    listed: sa.FromClause

    def value(self, at: int) -> Column:
        return list(self.listed.c)[1 + at]


def question_columns(
    form: Iterable[Question], model: TableModel, is_value: IsValue, dialect: str
) -> list[Column]:
    """The columns of the answers about a row of a table."""
    found: list[Column] = []
    types = {each.type: model.types.get(name) for name, each in model.columns.items()}
    for number, (name, size) in enumerate(form):
        if isinstance(size, Shape):
            found.append(shape_column(number, size, is_value, types))
            continue
        kind = model.columns[name].type
        slots: list[Any] = [sa.bindparam(_parameter(number, at), type_=kind) for at in range(size)]
        slots.append(None)
        for at in range(0, len(slots), _IN_A_COLUMN):
            array = sa.func.json_array if dialect == "sqlite" else sa.func.json_build_array
            answer = array(*(is_value(name, slot) for slot in slots[at : at + _IN_A_COLUMN]))
            found.append(sa.cast(answer, sa.Text))
    return found


def judged_by_type(columns: Mapping[str, sa.Column[Any]], dialect: sa.Dialect) -> frozenset[str]:
    """The attributes whose types Python does not compare as the database does."""
    return frozenset(name for name, column in columns.items() if not is_plain(column, dialect))


async def judged_columns(connection: AsyncConnection, model: TableModel) -> frozenset[str]:
    """The same, by what the table really is too: a model does not say all of it.

    On PostgreSQL the model learns the types of its columns.
    """
    table, dialect = model.table, connection.dialect
    if dialect.name == "sqlite":
        found = (await connection.execute(_SQLITE, {"name": table.name})).all()
        types = {row[0]: str(row[1]) for row in found}
        collated = any("collate" in str(row[2]).lower() for row in found)
        plain = {n for n, c in model.columns.items() if _as_on_sqlite(c, types, collated)}
    else:
        rows = await stored_columns(connection, table)
        kinds = {row[0]: str(row[1]) for row in rows if row[2]}
        model.learn_types({row[0]: str(row[3]) for row in rows})
        plain = {n for n, c in model.columns.items() if _as_on_postgresql(c, kinds)}
    return judged_by_type(model.columns, dialect) | (model.columns.keys() - plain)


async def stored_columns(connection: AsyncConnection, table: sa.Table) -> Sequence[Sequence[Any]]:
    """What ``_POSTGRESQL`` says of each column of a table."""
    name = ".".join(quote(each) for each in (table.schema, table.name) if each)
    return (await connection.execute(_POSTGRESQL, {"name": name})).all()


def _as_on_sqlite(column: sa.Column[Any], types: Mapping[str, str], collated: bool) -> bool:
    affinity = _affinity(types.get(column.name, ""))
    if isinstance(column.type, sa.String):
        return affinity == "TEXT" and not collated
    return isinstance(column.type, sa.Integer) and affinity == "INTEGER"


def _as_on_postgresql(column: sa.Column[Any], kinds: Mapping[str, str]) -> bool:
    kind = column.type
    known = next((each for one, each in _TYPES if isinstance(kind, one)), frozenset())
    if isinstance(kind, sa.DateTime):
        known = frozenset({"timestamptz" if kind.timezone else "timestamp"})
    return kinds.get(column.name) in known


def _affinity(declared: str) -> str:
    """SQLite, Datatypes, 3.1: how the declared type decides."""
    words = declared.upper()
    if "INT" in words:
        return "INTEGER"
    return "TEXT" if any(each in words for each in ("CHAR", "CLOB", "TEXT")) else "OTHER"


def shape_column(
    number: int, shape: Shape, is_value: IsValue, types: Mapping[Any, str | None]
) -> Column:
    """The numbers, as JSON, of the expressions of a shape that are true of a row.

    ``types``: by the type that a model's column has, the one in the database, as SQL.
    """
    asked = _asked_lite(number, shape) if shape.lite else _asked_array(number, shape, types)
    true = is_value(JUDGED, _ListedShape("", shape, asked))
    array = sa.func.json_group_array if shape.lite else sa.func.json_agg
    numbers = sa.cast(array(next(iter(asked.c))), sa.Text)
    query = sa.select(numbers).select_from(asked).where(true)
    return query.correlate_except(asked).scalar_subquery()


def _asked_values(number: int, expressions: Sequence[Expression]) -> dict[str, Any]:
    """The values of the expressions of a shape, as its statement takes them."""
    shape = expressions[0].shape
    name = f"asked_{number}"
    if shape.lite:
        return {name: json.dumps([each.stored for each in expressions])}
    found: dict[str, Any] = {name: list(range(len(expressions)))}
    for at in range(len(shape.kinds)):
        found[f"{name}_{at}"] = [each.values[at] for each in expressions]
    return found


def _asked_lite(number: int, shape: Shape) -> sa.FromClause:
    values = sa.func.json_each(sa.bindparam(f"asked_{number}", type_=sa.Text)).table_valued(
        sa.column("key", sa.Integer), sa.column("value"), name=f"headwater_listed_{number}"
    )
    parts = [
        sa.type_coerce(sa.func.json_extract(values.c.value, f"$[{at}]"), kind).label(f"value_{at}")
        for at, kind in enumerate(shape.kinds)
    ]
    return sa.select(values.c.key, *parts).subquery(f"headwater_asked_{number}")


def _asked_array(number: int, shape: Shape, types: Mapping[Any, str | None]) -> sa.FromClause:
    name = f"asked_{number}"
    # The drivers send a single float as the longer type too, where a REAL is compared with it.
    floats = [sa.Double() if isinstance(kind, sa.Float) else kind for kind in shape.kinds]
    kinds: list[Any] = [sa.Integer(), *floats]
    names = [name, *(f"{name}_{at}" for at in range(len(shape.kinds)))]
    arrays = [_array(each, kind, types.get(kind)) for each, kind in zip(names, kinds, strict=True)]
    columns = [sa.column(f"value_{at - 1}", kind) for at, kind in enumerate(kinds) if at]
    unnested = sa.func.unnest(*arrays).table_valued(sa.column("number", sa.Integer), *columns)
    return unnested.render_derived(name=f"headwater_{name}")


def _array(name: str, kind: Any, said: str | None) -> Column:
    """A parameter with values of a type. ``said``: the SQL of the type that the database has."""
    if said is None or not isinstance(kind, sa.Enum):
        return sa.cast(sa.bindparam(name, type_=ARRAY(kind)), ARRAY(kind))
    # The database may have an enum of another name, or a text, and psycopg lets it decide.
    text: Any = kind.adapt(sa.Enum, native_enum=False)  # type: ignore[no-untyped-call]
    return sa.cast(sa.bindparam(name, type_=ARRAY(text)), ARRAY(TypeOf(said)))


def _columns(size: int | Shape) -> int:
    if isinstance(size, Shape):
        return 1
    return -(-(size + 1) // _IN_A_COLUMN)


def _parameter(number: int, at: int) -> str:
    return f"equal_{number}_{at}"
