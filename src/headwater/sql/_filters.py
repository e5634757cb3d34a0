"""Filters as SQL: the one place where the values of ``where()`` meet the columns of a table."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import sqlalchemy as sa

from headwater.feeds._source import EVERYTHING, JUDGED, Conjunction, Filter
from headwater.sql._expressions import Column, Condition, Expression, Shape

# A statement whose rows are read by position, and one with its parameters.
Query: TypeAlias = "sa.Select[*tuple[Any, ...]]"
Asked: TypeAlias = "tuple[Query, dict[str, Any]]"

# Statements in the cache of a table: building one takes longer than running it.
CACHED = 512

# Conjunctions that get a subquery each, with its own index. Of more, one scan in the order of
# changes is cheaper.
_MOST_CONJUNCTIONS = 16

# Terms of one OR: SQLite takes expressions up to 1,000 deep.
_MOST_TERMS = 400

# Types whose values are the same to IN and to =.
_LISTED = (sa.Integer, sa.Uuid, sa.Text, sa.VARCHAR)


@dataclass(frozen=True, slots=True)
class _Slot:
    """The place of a value in a statement."""

    name: str


@dataclass(frozen=True, slots=True)
class ShapeSlot:
    """The place of the values of an expression in a statement.

    ``name``: what the names of its parameters begin with.
    """

    name: str
    shape: Shape

    def over(self, columns: Mapping[str, Any]) -> Condition:
        """The condition over these columns, by attribute."""
        return self.shape.over(columns, self.value)

    def value(self, at: int) -> Column:
        """One of the values."""
        return sa.bindparam(f"{self.name}_{at}", type_=self.shape.kinds[at])


def form_of(wanted: Filter) -> tuple[Filter, dict[str, Any]]:
    """A filter without its values, equal for all users of a feed, and the values by parameter."""
    if () in wanted.any_of:
        return EVERYTHING, {}
    # Equal values share a parameter: a statement takes a limited number of them.
    known: dict[tuple[str, Hashable], _Slot | ShapeSlot] = {}
    any_of: list[Conjunction] = []
    for conjunction in wanted.any_of:
        slots = []
        for name, value in conjunction:
            slot: _Slot | ShapeSlot | None = None
            if isinstance(value, Expression):
                made = ShapeSlot(f"wanted_{len(known)}", value.shape)
                slot = known.setdefault((name, value), made)
            elif value is not None:
                slot = known.setdefault((name, value), _Slot(f"wanted_{len(known)}"))
            slots.append((name, slot))
        any_of.append(tuple(slots))
    values: dict[str, Any] = {}
    for (_, value), slot in known.items():
        values |= (
            value.parameters(slot.name) if isinstance(value, Expression) else {slot.name: value}
        )
    return Filter(tuple(any_of)), values


class Filters:
    """The conditions of filters' forms on columns, by attribute."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self._columns = columns

    def matches(self, form: Filter) -> Condition:
        """The condition for rows that a filter lets through."""
        return self._any_of(form, self._same)

    def matches_by(self, form: Filter, same: Callable[[str, Any], Condition]) -> Condition:
        """The same for other values than those of the table's row.

        ``same``: the condition that an attribute has one value.
        """
        return self._any_of(form, lambda name, slots: _either([same(name, s) for s in slots]))

    def conjunctions(self, form: Filter) -> list[list[Condition]]:
        """The conditions of each subquery that finds such rows."""
        every = [[self.is_value(name, slot) for name, slot in each] for each in form.any_of]
        return every if 1 <= len(every) <= _MOST_CONJUNCTIONS else [[self.matches(form)]]

    def value(self, name: str, slot: Any) -> Any:
        """What an attribute is compared with."""
        if isinstance(slot, _Slot):
            return sa.bindparam(slot.name, type_=self._columns[name].type)
        return slot

    def is_value(self, name: str, slot: Any) -> Condition:
        """The condition that an attribute of a row has one value."""
        if isinstance(slot, ShapeSlot):
            return slot.over(self._columns)
        column: Column = self._columns[name]
        return column.is_(None) if slot is None else column == self.value(name, slot)

    def _same(self, name: str, slots: Sequence[Any]) -> Condition:
        """The condition that an attribute has one of these values."""
        if name == JUDGED:
            return _either([self.is_value(name, slot) for slot in slots])
        column = self._columns[name]
        values = [self.value(name, slot) for slot in slots if slot is not None]
        if len(values) < 2 or not isinstance(column.type, _LISTED):
            # PostgreSQL may take another operator for IN than for = where the types differ.
            return _either([self.is_value(name, slot) for slot in slots])
        listed: Condition = column.in_(values)
        return sa.or_(listed, column.is_(None)) if None in slots else listed

    def _any_of(self, form: Filter, same: Callable[[str, Sequence[Any]], Condition]) -> Condition:
        if form == EVERYTHING:
            return sa.true()
        return _either(
            [sa.and_(*(same(name, slots) for name, slots in each)) for each in _grouped(form)]
        )


def _either(terms: Sequence[Condition]) -> Condition:
    if len(terms) <= _MOST_TERMS:
        return sa.or_(sa.false(), *terms)
    # SQLite bounds the depth of an expression, and OR nests.
    runs = [terms[at : at + _MOST_TERMS] for at in range(0, len(terms), _MOST_TERMS)]
    return sa.case(*((sa.or_(*run), 1) for run in runs), else_=0) == 1


def _grouped(form: Filter) -> list[list[tuple[str, Sequence[Any]]]]:
    """The conjunctions, with those that differ in one name alone together."""
    found: list[list[tuple[str, Sequence[Any]]]] = []
    by_names: dict[tuple[str, ...], list[Conjunction]] = {}
    for each in form.any_of:
        by_names.setdefault(tuple(name for name, _ in each), []).append(each)
    for names, every in by_names.items():
        if len(every) == 1:
            found.append([(name, [slot]) for name, slot in every[0]])
            continue
        most = max(range(len(names)), key=lambda at: len({each[at][1] for each in every}))
        others: dict[Conjunction, list[Any]] = {}
        for each in every:
            others.setdefault(each[:most] + each[most + 1 :], []).append(each[most][1])
        for rest, slots in others.items():
            found.append([(names[most], slots), *((name, [slot]) for name, slot in rest)])
    return found
