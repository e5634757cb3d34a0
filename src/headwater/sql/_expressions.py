"""Conditions of ``where()`` beyond equality: SQLAlchemy expressions over one row's columns.

The database judges them, for pages and for streams alike. An expression is a *shape*, which is the
expression without its values, and the values. Equal shapes share their statements, and the
database judges all expressions of a shape by one look at a row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BIT
from sqlalchemy.sql import operators, visitors

from headwater.errors import DeclarationError, FilterValueError
from headwater.feeds._source import Judged

Condition: TypeAlias = "sa.ColumnElement[bool]"
Column: TypeAlias = "sa.ColumnElement[Any]"

# Values of one expression. SQLite bounds the depth of an expression and the length of a statement.
MOST_VALUES = 256

# Operators and functions that are no error, whatever is in the row: one row must not stop the
# streams of all others. So there is no arithmetic, no cast and no pattern from another column.
_OPERATORS = frozenset(
    {operators.eq, operators.ne, operators.lt, operators.le, operators.gt, operators.ge}
    | {operators.is_, operators.is_not, operators.is_distinct_from}
    | {operators.is_not_distinct_from, operators.between_op, operators.not_between_op}
    | {operators.and_, operators.or_, operators.inv, operators.istrue, operators.isfalse}
    | {operators.collate}
)
_LIKES = frozenset(
    {operators.like_op, operators.not_like_op, operators.ilike_op, operators.not_ilike_op}
    | {operators.startswith_op, operators.not_startswith_op, operators.istartswith_op}
    | {operators.endswith_op, operators.not_endswith_op, operators.iendswith_op}
    | {operators.contains_op, operators.not_contains_op, operators.icontains_op}
    | {operators.not_istartswith_op, operators.not_iendswith_op, operators.not_icontains_op}
)
_FUNCTIONS = frozenset(
    ("lower", "upper", "length", "char_length", "coalesce", "nullif", "trim", "ltrim", "rtrim")
)


class Shape:
    """An expression without its values. Equal for equal SQL.

    Attributes:
        kinds: the types of the values.
        names: the columns that it reads, by attribute.
        lite: for SQLite.
    """

    __slots__ = ("_hash", "_template", "_text", "kinds", "lite", "names")

    def __init__(self, template: Condition, kinds: Sequence[Any], dialect: sa.Dialect) -> None:
        self._template = template
        self.kinds = tuple(kinds)
        self.lite = dialect.name == "sqlite"
        found = visitors.iterate(template)
        self.names = frozenset(one.name for one in found if isinstance(one, sa.ColumnClause))
        said = str(template.compile(dialect=dialect))
        self._text = (said, tuple(map(repr, self.kinds)))
        self._hash = hash(self._text)

    def over(self, columns: Mapping[str, Any], value: Callable[[int], Column]) -> Condition:
        """The condition over these columns, by attribute, with these values, by number."""

        def put(element: Any, **_: Any) -> Any:
            if isinstance(element, sa.ColumnClause):
                return columns[element.name]
            if isinstance(element, sa.BindParameter):
                return value(int(element.key.removeprefix("value_")))
            return None

        found: Condition = visitors.replacement_traverse(self._template, {}, put)
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and self._text == other._text

    def __hash__(self) -> int:
        return self._hash

    def __lt__(self, other: Shape) -> bool:
        return self._text < other._text

    def __repr__(self) -> str:
        return f"Shape({' '.join(self._text[0].split())})"


class Expression(Judged):
    """A shape with its values.

    Attributes:
        values: as the columns' types have them.
        stored: as SQLite stores them, where that can be JSON.
    """

    __slots__ = ("_bound", "_dialect", "_hash", "shape", "stored", "values")

    def __init__(self, bound: Condition, dialect: sa.Dialect) -> None:
        self._bound = bound
        self._dialect = dialect
        kinds: list[Any] = []
        values: list[Any] = []
        known: dict[int, Column] = {}

        def number(element: Any, **_: Any) -> Any:
            if isinstance(element, sa.BindParameter):
                if id(element) not in known:
                    kind = unbounded(element.type)
                    known[id(element)] = sa.bindparam(f"value_{len(kinds)}", type_=kind)
                    kinds.append(kind)
                    values.append(element.effective_value)
                return known[id(element)]
            return None

        template = visitors.replacement_traverse(bound, {}, number)
        if len(values) > MOST_VALUES:
            raise DeclarationError(
                f"where() was given a condition with {len(values)} values (a list counts as the "
                f"next power of two); it may have {MOST_VALUES}. For a long list write "
                "where(column=[...])"
            )
        self.shape = Shape(template, kinds, dialect)
        self.values = tuple(values)
        self.stored = tuple(_stored(v, k, dialect) for v, k in zip(values, kinds, strict=True))
        try:
            self._hash = hash((self.shape, self.values))
        except TypeError as error:
            raise DeclarationError(
                f"where() was given the condition {self!r}: one of its values cannot be compared"
            ) from error

    def __and__(self, other: Judged) -> Expression:
        if not isinstance(other, Expression):
            return NotImplemented
        return self if self == other else Expression(self._bound & other._bound, self._dialect)

    def parameters(self, name: str) -> dict[str, Any]:
        """The values by parameter."""
        return {f"{name}_{at}": value for at, value in enumerate(self.values)}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Expression):
            return NotImplemented
        return self._hash == other._hash and (self.shape, self.values) == (
            other.shape,
            other.values,
        )

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"{self.shape!r} with {self.values!r}"


def split(
    where: str,
    conditions: Sequence[Any],
    attribute_of: Callable[[Any], str],
    dialect: sa.Dialect,
) -> tuple[dict[str, Any], Expression | None]:
    """The equalities among conditions that AND joins, by attribute, and the rest as one expression.

    Arguments:
        where: what is selected from, for error messages.
        attribute_of: the attribute of a column. Raises DeclarationError for another's column.

    Raises DeclarationError for what cannot be a condition on a row.
    """
    equalities: dict[str, Any] = {}
    rest: list[Condition] = []
    for given in conditions:
        if isinstance(given, bool) or given is None:
            raise _refused(
                where,
                f"{given!r}, which Python has made of a comparison",
                "write column.is_(None), or sa.and_ and sa.or_ for `and` and `or`",
            )
        for clause in clauses_of(_element(where, given)):
            pair = _equality(clause, attribute_of)
            if pair is not None and pair[0] not in equalities:
                equalities[pair[0]] = pair[1]
            else:
                rest.append(_checked(where, clause, attribute_of))
    return equalities, Expression(sa.and_(*rest), dialect) if rest else None


def _refused(where: str, what: str, instead: str) -> DeclarationError:
    return DeclarationError(f"where() of {where} was given {what}: {instead}")


def _element(where: str, given: Any) -> Any:
    try:
        element = sa.and_(given)
    except sa.exc.ArgumentError:
        element = None
    if element is None or not isinstance(element.type, (sa.Boolean, sa.types.NullType)):
        instead = "give SQLAlchemy expressions such as Model.price > 5, or equalities by name"
        raise _refused(where, f"{given!r:.200}, which is no condition", instead)
    return element


def bare(element: Any) -> Any:
    """An element without its label and its parentheses."""
    while isinstance(element, (sa.Label, sa.sql.elements.Grouping)):
        element = element.element
    return element


def clauses_of(element: Any) -> list[Any]:
    """The conditions that AND joins, one by one."""
    element = bare(element)
    if (
        isinstance(element, sa.sql.elements.BooleanClauseList)
        and element.operator is operators.and_
    ):
        return [one for clause in element.clauses for one in clauses_of(clause)]
    return [element]


def _equality(clause: Any, attribute_of: Callable[[Any], str]) -> tuple[str, Any] | None:
    """Of a column that equals a value, its attribute and the value."""
    if not isinstance(clause, sa.BinaryExpression) or clause.operator is not operators.eq:
        return None
    column, value = clause.left, clause.right
    if not isinstance(column, sa.ColumnClause) or not isinstance(value, sa.BindParameter):
        return None
    found = value.effective_value
    # In a list, or as None, it would have another meaning.
    if found is None or isinstance(found, (list, tuple, set, frozenset)):
        return None
    return attribute_of(column), found


def _checked(where: str, clause: Any, attribute_of: Callable[[Any], str]) -> Condition:
    """The condition with attributes for columns. Raises DeclarationError."""

    def listed(element: Any, **_: Any) -> Any:
        """``IN`` with a list, as equalities: each value is a parameter.

        The last one is repeated up to a power of two, so that lists of few lengths make few shapes.
        """
        if not isinstance(element, sa.BinaryExpression):
            return None
        if element.operator not in (operators.in_op, operators.not_in_op):
            return None
        values = getattr(element.right, "effective_value", None)
        if not isinstance(element.right, sa.BindParameter) or isinstance(element.left, sa.Tuple):
            raise _refused(
                where,
                shown(element),
                "IN takes one column and a list of values; a sub-query may change without the row, "
                "so write a live query that joins the other table",
            )
        kind = element.left.type
        values = list(values or ())
        values += values[-1:] * ((1 << (len(values) - 1).bit_length()) - len(values))
        same = [element.left == sa.bindparam(None, v, type_=kind) for v in values]
        found = sa.or_(sa.false(), *same).self_group()
        return found if element.operator is operators.in_op else sa.not_(found)

    def named(element: Any, **_: Any) -> Any:
        if isinstance(element, (sa.Select, sa.CompoundSelect, sa.Subquery, sa.Exists)):
            what = f"the sub-query {shown(element)}, which may change without the row"
            raise _refused(where, what, "write a live query that joins the other table")
        if isinstance(element, (sa.TextClause, sa.Over)):
            instead = "write it with SQLAlchemy's expressions over the row's columns"
            raise _refused(where, shown(element), instead)
        if isinstance(element, sa.sql.functions.FunctionElement):
            _check_function(where, element)
        if isinstance(element, (sa.BinaryExpression, sa.UnaryExpression)):
            _check_operator(where, element)
        if isinstance(element, (sa.Cast, sa.TypeCoerce, sa.Case)):
            raise _refused(where, shown(element), "compare columns and values as they are")
        if isinstance(element, sa.ColumnClause):
            if element.is_literal or element.table is None:
                what = f"{shown(element)}, which is no column of a table"
                raise _refused(where, what, "write an attribute of the model")
            return sa.column(attribute_of(element), element.type)
        return None

    found: Condition = visitors.replacement_traverse(
        visitors.replacement_traverse(clause, {}, listed), {}, named
    )
    return found


def _check_function(where: str, element: Any) -> None:
    name = str(getattr(element, "name", "")).lower()
    if name not in _FUNCTIONS:
        raise _refused(
            where,
            f"the function {name}(), whose value may change without the row, or which may be an "
            "error for one",
            f"use one of {', '.join(sorted(_FUNCTIONS))}",
        )


def _check_operator(where: str, element: Any) -> None:
    operator = element.operator
    if operator in _LIKES:
        _check_pattern(where, element)
    # The pattern of startswith() and so on is a concatenation; it was checked with its LIKE.
    elif operator not in _OPERATORS | {operators.concat_op}:
        raise _refused(
            where,
            shown(element),
            "compare columns and values as they are, because arithmetic and other operators may be "
            "an error for a row; store the result in a column",
        )


def _check_pattern(where: str, like: Any) -> None:
    """PostgreSQL raises an error for a pattern that ends with the escape character."""
    parts = [bare(like.right)]
    while isinstance(parts[-1], sa.BinaryExpression):
        last = parts.pop()
        parts += [bare(last.left), bare(last.right)]
    end = parts[-1]
    if any(isinstance(one, sa.ColumnClause) and not one.is_literal for one in parts):
        raise _refused(where, shown(like), "the pattern of LIKE is a value")
    text = getattr(end, "effective_value", None)
    escape = like.modifiers.get("escape") or "\\"
    if isinstance(text, str) and (len(text) - len(text.rstrip(escape))) % 2:
        raise FilterValueError(
            getattr(like.left, "key", "pattern"),
            text,
            f"the pattern {text!r:.100} ends with the escape character {escape!r}: write it twice",
        )


def unbounded(kind: Any) -> Any:
    """A type without a length and a precision, to which PostgreSQL would cut a value in a list."""
    if isinstance(kind, (sa.Enum, sa.types.TypeDecorator)):
        return kind
    if isinstance(kind, (sa.CHAR, sa.NCHAR)):
        return sa.String(collation=kind.collation)
    if isinstance(kind, BIT):
        return BIT(varying=True)
    bounds = ("length", "precision", "scale")
    found = {name: None for name in bounds if getattr(kind, name, None) is not None}
    return kind.adapt(type(kind), **found) if found else kind


def _stored(value: Any, kind: Any, dialect: sa.Dialect) -> Any:
    """A value as SQLite stores it, to be put into JSON."""
    if dialect.name != "sqlite":
        return value
    processor = kind.dialect_impl(dialect).bind_processor(dialect)
    found = value if processor is None else processor(value)
    try:
        json.dumps(found, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DeclarationError(
            f"where() was given a condition with {value!r:.100}, a value that only equality can "
            "compare: write where(column=value)"
        ) from error
    return found


def shown(element: Any) -> str:
    """The SQL of an element, in one line for a message."""
    text = " ".join(str(element).split())
    return text if len(text) <= 80 else text[:77] + "..."
