"""Handlers' signatures, resolved: FastAPI is shown another one than the user wrote."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from headwater.errors import DeclarationError

__all__ = ["asked_for", "parameters_of", "returned_by", "unaliased"]


def parameters_of(call: Callable[..., Any], where: str) -> dict[str, inspect.Parameter]:
    """The parameters of a handler by name, keyword-only, with their annotations evaluated.

    Under ``from __future__ import annotations`` they are text; names of the enclosing function
    count too. Raises DeclarationError for one that cannot be evaluated.
    """
    found = {}
    for parameter in inspect.signature(call).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise DeclarationError(f"{where}: a handler may not have a parameter *{parameter.name}")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise DeclarationError(
                f"{where}: {parameter.name!r} is positional only, and a request's values are given "
                "by name: take the `/` out of the handler's parameters"
            )
        annotation = parameter.annotation
        if isinstance(annotation, str):
            annotation = _evaluated(call, parameter.name, annotation, where)
        found[parameter.name] = parameter.replace(
            annotation=annotation, kind=inspect.Parameter.KEYWORD_ONLY
        )
    return found


def unaliased(annotation: Any) -> tuple[Any, list[Any]]:
    """What an annotation stands for, without ``Annotated`` and ``type X = ...``; and its notes."""
    notes: list[Any] = []
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            notes += more
        elif hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            return annotation, notes


def returned_by(call: Callable[..., Any], where: str) -> Any:
    """What a handler is annotated to return; ``Signature.empty`` where that is not known."""
    found = inspect.signature(call).return_annotation
    if isinstance(found, str):
        try:
            return _evaluated(call, "return", found, where)
        except DeclarationError:
            return inspect.Signature.empty
    return found


def _evaluated(call: Callable[..., Any], name: str, text: str, where: str) -> Any:
    inner = inspect.unwrap(call)
    while isinstance(inner, functools.partial):
        inner = inspect.unwrap(inner.func)
    if inspect.isclass(inner):
        inner = inner.__init__
    elif not hasattr(inner, "__globals__"):
        # An object that is called.
        inner = getattr(type(inner).__call__, "__func__", type(inner).__call__)
    code = getattr(inner, "__code__", None)
    cells = getattr(inner, "__closure__", None) or ()
    local = {}
    for variable, cell in zip(code.co_freevars if code else (), cells, strict=True):
        # One that is assigned further down has no value yet.
        with contextlib.suppress(ValueError):
            local[variable] = cell.cell_contents
    holder = type("Holder", (), {"__annotations__": {name: text}})
    try:
        return get_type_hints(
            holder, getattr(inner, "__globals__", {}), local, include_extras=True
        )[name]
    except NameError as error:
        raise DeclarationError(
            f"{where}: the annotation of {name!r} cannot be read: {error}; import it at the top of "
            "the module"
        ) from error


def asked_for(parameters: dict[str, inspect.Parameter], kind: type[Any]) -> str:
    """The name of the parameter that takes ``kind``, such as Request.

    One is added to ``parameters`` where there is none; FastAPI fills in only one of a kind.
    """
    for name, each in parameters.items():
        if isinstance(each.annotation, type) and issubclass(each.annotation, kind):
            return name
    name = f"headwater_{kind.__name__.lower()}"
    parameters[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind)
    return name
