"""The functions of the user: their signatures, and how they are called.

FastAPI is shown another signature than the user wrote. Coroutine functions run in the loop, others
in a thread.

A decorated function, a method, a ``partial`` and an object with ``__call__`` are all functions to
their author. One that is taken for a plain function returns a coroutine that nobody awaits, so a
guard would let everybody pass.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from starlette.concurrency import run_in_threadpool

from headwater.errors import DeclarationError


def is_coroutine_function(call: Callable[..., Any]) -> bool:
    """Whether it, or a function that it wraps, is an ``async def`` function."""
    return any(inspect.iscoroutinefunction(each) for each in _layers(call))


def is_generator_function(call: Callable[..., Any]) -> bool:
    """Whether it, or a function that it wraps, holds something open by ``yield``."""
    return any(
        inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each)
        for each in _layers(call)
    )


def as_coroutine(call: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """A coroutine function that calls it: in the loop, or in a thread if it is none itself.

    It raises DeclarationError when a generator is returned, which nobody would run.
    """
    is_coroutine = is_coroutine_function(call)

    async def called(*args: Any, **values: Any) -> Any:
        if is_coroutine:
            found = call(*args, **values)
        else:
            # One of the values may have a name that `run_in_threadpool` has a parameter of.
            found = await run_in_threadpool(functools.partial(call, *args, **values))
        if inspect.isawaitable(found):
            # A lambda may return one too.
            found = await found
        if inspect.isgenerator(found) or inspect.isasyncgen(found):
            raise DeclarationError(
                f"{getattr(call, '__qualname__', call)!r} returned a generator that nothing runs: "
                "declare it as a function with `yield`, or without"
            )
        return found

    return called


def _layers(call: Any) -> Iterator[Any]:
    """A function, and those that it stands for."""
    seen: list[Any] = []
    while call is not None and call not in seen:
        seen.append(call)
        yield call
        if isinstance(call, functools.partial):
            call = call.func
        elif hasattr(call, "__wrapped__"):
            call = call.__wrapped__
        elif not inspect.isroutine(call) and not inspect.isclass(call):
            call = type(call).__call__ if callable(call) else None
        else:
            return


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


def readable_parameters(call: Any) -> Iterator[inspect.Parameter]:
    """The same of a dependency. None if FastAPI cannot read them either, and has its own word."""
    with contextlib.suppress(DeclarationError, TypeError, ValueError):
        yield from parameters_of(call, "").values()


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


def taking(parameters: Mapping[str, inspect.Parameter], kind: type[Any]) -> str:
    """The name of the parameter that takes ``kind``, such as Request; empty where there is none."""
    for name, each in parameters.items():
        annotation, _ = unaliased(each.annotation)
        if isinstance(annotation, type) and issubclass(annotation, kind):
            return name
    return ""


def asked_for(parameters: dict[str, inspect.Parameter], kind: type[Any]) -> str:
    """The name of the parameter that takes ``kind``, such as Request.

    One is added to ``parameters`` where there is none; FastAPI fills in only one of a kind.
    """
    if name := taking(parameters, kind):
        return name
    name = f"headwater_{kind.__name__.lower()}"
    parameters[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind)
    return name


def sign(call: Any, parameters: Iterable[inspect.Parameter], returns: Any) -> None:
    """Show FastAPI another signature of a function."""
    vars(call).pop("__wrapped__", None)
    call.__annotations__ = {}
    call.__signature__ = inspect.Signature(list(parameters), return_annotation=returns)
