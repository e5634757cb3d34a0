"""Item models: how a row or object becomes the JSON of one item, and the model of a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    TypeAdapter,
    ValidationError,
    create_model,
)

from headwater.errors import EncodingError
from headwater.web.feed_route import FeedDeclaration

__all__ = ["encoder_of", "page_model"]


def encoder_of(item: Any, name: str) -> Callable[[Any], bytes]:
    """What makes JSON of an item: validated by its model, in the model's own shape.

    A row may have columns that the model does not: they are left out, also when the model forbids
    extra fields. Raises EncodingError for an item that does not fit.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(item)
    known = _field_names(item)
    validate, to_json = adapter.validator.validate_python, adapter.serializer.to_json

    def encode(raw: Any) -> bytes:
        if known is not None and isinstance(raw, Mapping):
            raw = {key: raw[key] for key in known if key in raw}
        try:
            value = validate(raw, from_attributes=True)
        except ValidationError as error:
            raise EncodingError(
                f"feed {name!r}: an item does not fit its model: {error}"
            ) from error
        return to_json(value, by_alias=True)

    return encode


def _field_names(item: Any) -> tuple[str, ...] | None:
    """What the model may be given of a row; None for all of it."""
    if not (isinstance(item, type) and issubclass(item, BaseModel)) or issubclass(item, RootModel):
        return None
    names: dict[str, None] = {}
    for name, field in item.model_fields.items():
        names[name] = None
        for alias in (field.alias, field.validation_alias):
            choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
            for choice in choices:
                first = choice.path[0] if isinstance(choice, AliasPath) else choice
                if isinstance(first, str):
                    names[first] = None
    return tuple(names)


def page_model(item: Any, declaration: FeedDeclaration) -> type[BaseModel]:
    """The model of a page, for the API's description."""
    title = "".join(part.title() for part in declaration.feed.event.replace("-", "_").split("_"))
    fields: dict[str, Any] = {
        declaration.feed.collection: (
            list[item],
            Field(description="The items, oldest first."),
        ),
        "start": (str, Field(description="Where the page begins: `before` takes it.")),
        "position": (str, Field(description="Where the page ends: `after` takes it.")),
        "has_more": (
            bool,
            Field(description="Further items: newer ones with `after`, older ones otherwise."),
        ),
    }
    if declaration.keyed:
        fields["removed"] = (
            list[dict[str, Any]],
            Field(
                default=[],
                description="With `after`: keys of items that left; applied before the items.",
            ),
        )
    return create_model(f"{title}Page", __config__=ConfigDict(extra="forbid"), **fields)
