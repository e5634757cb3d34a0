"""The options of a FastAPI route, typed, as ``LiveRouter.get`` and ``feed`` pass them on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, TypedDict

from fastapi import params
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from headwater.errors import DeclarationError


class FeedOptions(TypedDict, total=False):
    """What both routes of a feed take, as FastAPI's ``APIRouter.get`` documents it."""

    tags: list[str | Enum] | None
    summary: str | None
    description: str | None
    responses: dict[int | str, dict[str, Any]] | None
    deprecated: bool | None
    operation_id: str | None
    include_in_schema: bool
    openapi_extra: dict[str, Any] | None
    generate_unique_id_function: Callable[[APIRoute], str]


def check_feed_options(where: str, options: Iterable[str]) -> None:
    """Raise DeclarationError for an option that the routes of a feed do not take."""
    known = FeedOptions.__optional_keys__
    for name in options:
        if name not in known:
            raise DeclarationError(
                f"{where}: {name}= is no option of its routes; they take {', '.join(sorted(known))}"
            )


class RouteOptions(FeedOptions, total=False):
    """What a route takes, as FastAPI's ``APIRouter.get`` documents it."""

    response_model: Any
    status_code: int | None
    dependencies: Sequence[params.Depends] | None
    response_description: str
    response_model_include: Any
    response_model_exclude: Any
    response_model_by_alias: bool
    response_model_exclude_unset: bool
    response_model_exclude_defaults: bool
    response_model_exclude_none: bool
    response_class: type[Response]
    name: str | None
    callbacks: list[BaseRoute] | None
