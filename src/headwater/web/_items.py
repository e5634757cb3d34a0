"""Item models: how a row or object becomes the JSON of one item."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    PydanticUserError,
    RootModel,
    TypeAdapter,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import to_json

from headwater.errors import DeclarationError, EncodingError
from headwater.feeds._feed import ItemFunction

# Errors of one item that are named.
_MOST_ERRORS = 5


def item_encoding(item: Any) -> tuple[Any, dict[str, Any]]:
    """The model of one item, and how a feed makes and encodes items: arguments of ``Feed``.

    Raises DeclarationError for what cannot be ``item=``.
    """
    model, function = _model_of(item)
    encoding = {"encode": _encoder_of(model), "encode_key": _key_encoder_of(model)}
    return model, encoding | {"function": function}


def _model_of(item: Any) -> tuple[Any, ItemFunction | None]:
    """The model of one item, and the function that makes items of rows if ``item=`` is one.

    Raises DeclarationError for a function that cannot be that.
    """
    if not inspect.isroutine(item):
        return item, None
    name = getattr(item, "__qualname__", repr(item))
    if not inspect.iscoroutinefunction(item):
        raise DeclarationError(
            f"item={name}: a function that makes items is `async def` and takes a list of rows"
        )
    try:
        said = get_type_hints(item).get("return")
    except NameError as error:
        raise DeclarationError(f"item={name}: its return type is not known: {error}") from error
    models = get_args(said)
    if len(models) != 1 or get_origin(said) not in (list, Sequence):
        raise DeclarationError(
            f"item={name}: say what it returns with the model of one item, such as "
            "`async def items(rows: list[Mapping]) -> list[OrderItem]`"
        )
    return models[0], item


def _encoder_of(item: Any) -> Callable[[Any], bytes]:
    """What makes JSON of an item: validated by its model, in the model's own shape.

    A row may have columns that the model does not: they are left out, also when the model forbids
    extra fields. Raises EncodingError for an item that does not fit.
    """
    needed = f"item={item!r}: write a pydantic model, a dataclass or a TypedDict of one item"
    if item is None:
        raise DeclarationError(needed)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(item)
        validate, encoded = adapter.validator.validate_python, adapter.serializer.to_json
    except PydanticUserError as error:
        said = str(error).splitlines()[0].partition(". ")[0]
        raise DeclarationError(f"{needed}; pydantic says: {said}") from error
    known = _field_names(item)

    def encode(raw: Any) -> bytes:
        if known is not None and isinstance(raw, Mapping):
            raw = {key: raw[key] for key in known if key in raw}
        try:
            value = validate(raw, from_attributes=True)
        except ValidationError as error:
            # Never the values, which a message of the model's own may have too.
            raise EncodingError(_without_values(error)) from None
        return encoded(value, by_alias=True)

    return encode


def _key_encoder_of(item: Any) -> Callable[[Mapping[str, Any]], bytes]:
    """What makes JSON of the key of an item that left, with the names and values that items have.

    A column of the key that the model does not have keeps its own name.
    """
    fields = {
        name: each
        for each, info in _fields_of(item).items()
        for name in (each, *_first_names(info.alias), *_first_names(info.validation_alias))
    }
    if not fields:
        return _key_json
    adapter = TypeAdapter(item)

    def encode(key: Mapping[str, Any]) -> bytes:
        shown: dict[str, Any] = {}
        for name, value in key.items():
            field = fields.get(name)
            if field is None:
                shown[name] = value
                continue
            made = item.model_construct(**{field: value})
            # What the model makes of the value alone; a model may want other fields beside it.
            with suppress(ValidationError):
                adapter.validator.validate_assignment(made, field, value)
            try:
                shown |= made.model_dump(
                    mode="json", by_alias=True, include={field}, warnings=False
                )
            except ValueError:
                # Bytes that are no text: no client has such an item.
                shown[name] = value
        return _key_json(shown)

    return encode


def _key_json(key: Mapping[str, Any]) -> bytes:
    """A key as JSON, with its values as items have them. It exists for every key.

    An item whose key has no JSON is told as left out, and has a key of its own then too.
    """
    try:
        return to_json(key, inf_nan_mode="null", fallback=str)
    except ValueError:
        return to_json(key, inf_nan_mode="null", fallback=str, bytes_mode="hex")


def _without_values(error: ValidationError) -> str:
    found = [
        f"{'.'.join(map(str, each['loc'])) or 'the item'} is not valid ({each['type']})"
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return ", ".join(found[:_MOST_ERRORS])


def _fields_of(item: Any) -> Mapping[str, FieldInfo]:
    """The fields of a model; empty for anything else."""
    if isinstance(item, type) and issubclass(item, BaseModel) and not issubclass(item, RootModel):
        return item.model_fields
    return {}


def _field_names(item: Any) -> tuple[str, ...] | None:
    """What the model may be given of a row; None for all of it."""
    names: dict[str, None] = {}
    for name, field in _fields_of(item).items():
        names[name] = None
        for alias in (field.alias, field.validation_alias):
            names.update(dict.fromkeys(_first_names(alias)))
    return tuple(names) or None


def required_fields(item: Any) -> list[tuple[str, ...]]:
    """For each field that a model needs: the names, any of which an item may have it by."""
    config = getattr(item, "model_config", {})
    by_name = config.get("populate_by_name") or config.get("validate_by_name")
    found = []
    for name, field in _fields_of(item).items():
        alias = field.validation_alias or field.alias
        names = _first_names(alias)
        if field.is_required():
            found.append((*names, *([name] if by_name or not names else [])))
    return found


def _first_names(alias: Any) -> list[str]:
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    firsts = [each.path[0] if isinstance(each, AliasPath) else each for each in choices]
    return [each for each in firsts if isinstance(each, str)]
