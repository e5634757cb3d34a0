"""Which SQL functions and elements a live query may have: those that depend on rows alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from headwater.errors import DeclarationError

_AGGREGATES = """
    array_agg avg bit_and bit_or bool_and bool_or count every group_concat json_agg
    json_group_array json_group_object json_object_agg jsonb_agg jsonb_object_agg max min
    percentile_cont percentile_disc mode stddev stddev_pop stddev_samp string_agg sum total
    aggregate_strings var_pop var_samp variance
"""

# They give the same for the same row at any time, in any session.
_STEADY = """
    abs ascii btrim ceil ceiling char_length character_length coalesce concat concat_ws
    exists floor greatest hex ifnull iif initcap instr json_array json_array_length
    json_build_array json_build_object json_extract json_extract_path json_extract_path_text
    json_object jsonb_array_length jsonb_build_array jsonb_build_object jsonb_extract_path
    jsonb_extract_path_text least left length lower lpad ltrim md5 mod nullif power pow
    printf repeat replace reverse right round rpad rtrim sign split_part sqrt strpos substr
    substring trim trunc upper
"""

# Parameters of the statements that follow a query.
_OWN_PARAMETER = re.compile("(count|keys|(low|high|seen|wanted|asked|equal|value)_.*)")

AGGREGATES = frozenset(_AGGREGATES.split())
_ALLOWED = AGGREGATES | frozenset(_STEADY.split())

_REFUSED: Mapping[type[Any], str] = {
    sa.Over: "the window function {} cannot be derived, because one row changes others: use a "
    "correlated scalar sub-query, such as a count of the rows before",
    sa.sql.selectable.ForUpdateArg: "with_for_update() cannot be derived, because it locks rows: "
    "leave it out",
    sa.TextClause: "text({0.text!r}) cannot be derived: write it with SQLAlchemy's expressions",
    sa.CompoundSelect: "UNION, INTERSECT and EXCEPT cannot be derived: declare one live query for "
    "each SELECT",
}


def check_element(element: Any) -> None:
    """Raises DeclarationError for what cannot be derived."""
    for kind, sentence in _REFUSED.items():
        if isinstance(element, kind):
            raise DeclarationError(sentence.format(element))
    if isinstance(element, sa.BindParameter):
        _check_parameter(element)
    if isinstance(element, sa.ColumnClause):
        if element.is_literal and element.name not in ("*", "1"):  # as in EXISTS (SELECT 1 …)
            raise DeclarationError(
                f"literal_column({element.name!r}) cannot be derived: write it with SQLAlchemy's "
                "expressions"
            )
        if element.table is None and not element.is_literal:
            raise DeclarationError(
                f"the column {element.name!r} belongs to no table: write it as an attribute of a "
                "mapped class or a column of a Table"
            )
    name = _function(element)
    if name is not None and name not in _ALLOWED:
        raise DeclarationError(
            f"the function {name}() cannot be derived, because its value may change without a row "
            "that changes: compute it from the item, or store it in a column"
        )


def _function(element: Any) -> str | None:
    """The name of a function in small letters; None for other elements."""
    if not isinstance(element, sa.sql.functions.FunctionElement):
        return None
    return str(getattr(element, "name", "")).lower()


def _check_parameter(parameter: sa.BindParameter[Any]) -> None:
    if parameter.callable is not None:
        raise DeclarationError(
            f"the parameter {parameter.key!r} has a callable, whose value may change without a row "
            "that changes: give it a value"
        )
    if parameter.required:
        raise DeclarationError(
            f"the parameter {parameter.key!r} has no value: write the value itself, or select the "
            "column and name it in where=, so that each caller may have another value"
        )
    if not parameter.unique and _OWN_PARAMETER.fullmatch(parameter.key):
        raise DeclarationError(
            f"the parameter {parameter.key!r} is called like one of Headwater's own: give it "
            "another name, or write the value itself"
        )


def has_aggregate(element: Any) -> bool:
    """Whether an expression has an aggregate outside of its sub-queries."""
    left = [element]
    while left:
        one = left.pop()
        if _function(one) in AGGREGATES:
            return True
        if not isinstance(one, sa.Select):
            left += one.get_children()
    return False
