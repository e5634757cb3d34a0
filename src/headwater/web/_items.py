"""Item models: how a row or object becomes the JSON of one item."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import to_json

from headwater.errors import DeclarationError, EncodingError
from headwater.feeds._feed import ItemFunction
from headwater.web._item_shapes import Shape, shapes_of

# Errors of one item that are named.
_MOST_ERRORS = 5


def item_encoding(item: Any) -> tuple[Any, dict[str, Any]]:
    """The model of one item, and how a feed makes and encodes items: arguments of ``Feed``.

    Raises DeclarationError for what cannot be ``item=``.
    """
    model, function = _model_of(item)
    adapter = _adapter_of(model)
    shapes = shapes_of(adapter)
    return model, {
        "encode": _encoder_of(adapter, _known_names(model, shapes)),
        "encode_key": _key_encoder_of(shapes),
        "function": function,
    }


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


def _adapter_of(item: Any) -> TypeAdapter[Any]:
    needed = f"item={item!r}: write a pydantic model, a dataclass or a TypedDict of one item"
    if item is None:
        raise DeclarationError(needed)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(item)
        # What refers to a class that is defined later shows it here.
        _ = adapter.validator.validate_python, adapter.serializer.to_json
    except PydanticUserError as error:
        said = str(error).splitlines()[0].partition(". ")[0]
        raise DeclarationError(f"{needed}; pydantic says: {said}") from error
    return adapter


def _encoder_of(adapter: TypeAdapter[Any], known: Sequence[str]) -> Callable[[Any], bytes]:
    """What makes JSON of an item: validated by its model, in the model's own shape.

    A row may have columns that the model does not: they are left out, also when the model forbids
    extra fields. Raises EncodingError for an item that does not fit.
    """
    validate, dump = adapter.validator.validate_python, adapter.serializer.to_json

    def encode(raw: Any) -> bytes:
        if known and isinstance(raw, Mapping):
            raw = {key: raw[key] for key in known if key in raw}
        try:
            value = validate(raw, from_attributes=True)
        except ValidationError as error:
            # Never the values, which a message of the model's own may have too.
            raise EncodingError(_without_values(error)) from None
        return dump(value, by_alias=True)

    return encode


def _known_names(item: Any, shapes: Sequence[Shape]) -> tuple[str, ...]:
    """What is taken of a row; empty for all of it.

    A function around a model, such as one that chooses a branch of a union, may look at anything.
    """
    is_model = [each.kind for each in shapes] == [item] and issubclass(item, BaseModel)
    if not is_model and not any(each.forbids for each in shapes):
        return ()
    fields = [pair for each in shapes for pair in each.fields.items()]
    return tuple(dict.fromkeys(known for name, each in fields for known in (name, *each.taken)))


def _key_encoder_of(shapes: Sequence[Shape]) -> Callable[[Mapping[str, Any]], bytes]:
    """What makes JSON of the key of an item that left, with the names and values that items have.

    A column of the key that the model does not have keeps its own name.
    """
    fields: dict[str, tuple[Shape, str]] = {}
    for shape in shapes:
        for name, each in shape.fields.items():
            for known in (name, *each.taken):
                fields.setdefault(known, (shape, name))
    adapters = {shape.kind: TypeAdapter(shape.kind) for shape, _ in fields.values()}

    def encode(key: Mapping[str, Any]) -> bytes:
        shown: dict[str, Any] = {}
        for name, value in key.items():
            if name not in fields:
                shown[name] = value
                continue
            shape, field = fields[name]
            try:
                shown |= _shown(adapters[shape.kind], shape.kind, field, value)
            except Exception:
                # Code of the model's own wants other fields beside it, and the item is gone.
                shown[shape.fields[field].shown] = value
        return _key_json(shown)

    return encode


def _key_json(key: Mapping[str, Any]) -> bytes:
    """A key as JSON, with its values as items have them; it exists for every key."""
    try:
        return to_json(key, inf_nan_mode="null", fallback=str)
    except ValueError:
        # Bytes that are no text: no client has such an item.
        return to_json(key, inf_nan_mode="null", fallback=str, bytes_mode="hex")


def _shown(adapter: TypeAdapter[Any], kind: Any, field: str, value: Any) -> dict[str, Any]:
    """What a model shows of an item of which only this field is known."""
    made: Any = {field: value}
    if issubclass(kind, BaseModel):
        made = kind.model_construct(**made)
    elif not issubclass(kind, dict):
        made = kind.__new__(kind)
        object.__setattr__(made, field, value)
    with suppress(Exception):
        # What the model makes of the value; it may want other fields beside it.
        adapter.validator.validate_assignment(made, field, value)
    found: dict[str, Any] = adapter.dump_python(
        made, mode="json", by_alias=True, include={field}, warnings=False
    )
    return found


def _without_values(error: ValidationError) -> str:
    found = [
        f"{'.'.join(map(str, each['loc'])) or 'the item'} is not valid ({each['type']})"
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return ", ".join(found[:_MOST_ERRORS])


def required_fields(item: Any) -> list[list[str]]:
    """For each field that a model needs: the names, any of which an item may have it by."""
    shapes = shapes_of(TypeAdapter(item))
    # Of a union an item needs the fields of one branch only.
    fields = shapes[0].fields.values() if len(shapes) == 1 else ()
    return [each.taken for each in fields if each.required]
