"""Calls the functions of the user: coroutine functions in the loop, others in a thread.

A decorated function, a method, a ``partial`` and an object with ``__call__`` are all functions to
their author. One that is taken for a plain function returns a coroutine that nobody awaits, so a
guard would let everybody pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool

from headwater.errors import DeclarationError

__all__ = ["called", "is_coroutine_function", "is_generator_function"]


def is_coroutine_function(call: Callable[..., Any]) -> bool:
    """Whether it, or a function that it wraps, is an ``async def`` function."""
    return any(inspect.iscoroutinefunction(each) for each in _layers(call))


def is_generator_function(call: Callable[..., Any]) -> bool:
    """Whether it, or a function that it wraps, holds something open by ``yield``."""
    return any(
        inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each)
        for each in _layers(call)
    )


async def called(call: Callable[..., Any], is_coroutine: bool, /, *args: Any, **values: Any) -> Any:
    """What a function comes to.

    Arguments:
        is_coroutine: what ``is_coroutine_function`` says of it; asked once for many calls.

    Raises DeclarationError for one that returns a generator, which nobody would run.
    """
    found = (
        call(*args, **values) if is_coroutine else await run_in_threadpool(call, *args, **values)
    )
    if inspect.isawaitable(found):
        # A lambda may return one too.
        found = await found
    if inspect.isgenerator(found) or inspect.isasyncgen(found):
        raise DeclarationError(
            f"{getattr(call, '__qualname__', call)!r} returned a generator that nothing runs: "
            "declare it as a function with `yield`, or without"
        )
    return found


def _layers(call: Any) -> Iterator[Any]:
    """A function, and those that it stands for."""
    seen: list[Any] = []
    while call is not None and call not in seen:
        seen.append(call)
        yield call
        if isinstance(call, partial):
            call = call.func
        elif hasattr(call, "__wrapped__"):
            call = call.__wrapped__
        elif not inspect.isroutine(call) and not inspect.isclass(call):
            call = type(call).__call__ if callable(call) else None
        else:
            return
