"""The shapes that an item may have: that of its model, or of each branch of a union."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import TypeAdapter

# pydantic's description of a type: pydantic_core.core_schema.
_Schema = Mapping[str, Any]


class ItemField(NamedTuple):
    """One field of an item.

    Attributes:
        shown: its name in JSON.
        taken: the names that a row may have it by.
        required: an item needs it.
    """

    shown: str
    taken: list[str]
    required: bool


class Shape(NamedTuple):
    """One shape of an item.

    Attributes:
        kind: the class.
        fields: by name.
        forbids: it refuses what it has no field for.
    """

    kind: Any
    fields: Mapping[str, ItemField]
    forbids: bool


def shapes_of(adapter: TypeAdapter[Any]) -> list[Shape]:
    """The shapes that an item may have; none where it may be something without fields, too."""
    found = list(_shapes(adapter.core_schema, {}, {}))
    return [each for each in found if each is not None] if None not in found else []


def _shapes(
    schema: _Schema, known: Mapping[str, _Schema], around: _Schema
) -> Iterator[Shape | None]:
    kind = schema["type"]
    if kind in ("model-fields", "dataclass-args", "typed-dict"):
        yield _shape(schema, schema if kind == "typed-dict" else around)
    elif kind == "definitions":
        inner = {each["ref"]: each for each in schema["definitions"]}
        yield from _shapes(schema["schema"], inner, around)
    elif kind == "definition-ref":
        yield from _shapes(known[schema["schema_ref"]], known, around)
    elif kind in ("union", "tagged-union"):
        choices = schema["choices"]
        for each in choices.values() if isinstance(choices, dict) else choices:
            # A choice may have a label beside it.
            yield from _shapes(each[0] if isinstance(each, tuple) else each, known, around)
    elif "schema" in schema:
        yield from _shapes(schema["schema"], known, schema if "cls" in schema else around)
    else:
        yield None


def _shape(schema: _Schema, around: _Schema) -> Shape:
    config = around.get("config") or {}
    by_name = config.get("validate_by_name", False)
    extra = schema.get("extra_behavior") or config.get("extra_fields_behavior")
    fields = schema["fields"]
    named = fields if isinstance(fields, dict) else {each["name"]: each for each in fields}
    return Shape(
        around.get("cls"),
        {name: _field(name, each, by_name=by_name) for name, each in named.items()},
        extra == "forbid",
    )


def _field(name: str, described: _Schema, *, by_name: bool) -> ItemField:
    # A name, a path that begins with one, or a list of such paths.
    alias = described.get("validation_alias") or []
    paths = [[alias]] if isinstance(alias, str) else alias
    if paths and not isinstance(paths[0], list):
        paths = [paths]
    taken = [path[0] for path in paths]
    if by_name or not taken:
        taken.append(name)
    required = described.get("required", described["schema"]["type"] != "default")
    return ItemField(described.get("serialization_alias", name), taken, required)
