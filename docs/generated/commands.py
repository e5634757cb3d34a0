"""The commands: their help, as tables rather than as one version of a library prints it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

__all__ = ["commands", "names"]


def commands() -> str:
    """Each command, in the order that ``headwater --help`` has."""
    return "\n\n".join("\n\n".join(described(name, command)) for name, command in _all())


def names() -> Iterator[str]:
    """All commands; a group's own commands instead of the group."""
    yield from (name for name, _ in _all())


def described(name: str, command: Any) -> Iterator[str]:
    """What it does, how it is called, and its options."""
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    yield f"## `headwater {name}`"
    usage = " ".join(["headwater", name, *(_placeholder(each) for each in arguments)])
    yield f"`{usage}{' [OPTIONS]' if options else ''}`"
    yield inspect.cleandoc(command.callback.__doc__ or "")
    rows = [[f"`{_placeholder(each)}`", _help(each)] for each in arguments]
    rows += [[f"`{_option(each)}`", _help(each)] for each in options]
    if rows:
        lines = [["argument or option", "meaning"], ["---", "---"], *rows]
        yield "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _all() -> Iterator[tuple[str, Any]]:
    from typer.main import get_command

    from headwater.cli import application

    group: Any = get_command(application())
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            yield from ((f"{name} {each}", one) for each, one in inner.items())


def _placeholder(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _option(parameter: Any) -> str:
    name = ", ".join(parameter.opts)
    if getattr(parameter, "is_flag", False):
        return name
    value = parameter.metavar or parameter.name.rpartition("_")[2].upper()
    return f"{name} {value}".replace("|", "\\|")


def _help(parameter: Any) -> str:
    text = " ".join((parameter.help or "").split()).replace("|", "\\|")
    told = [text]
    flag = getattr(parameter, "is_flag", False)
    if parameter.default not in (None, (), []) and not flag and "default" not in text.lower():
        shown = parameter.default
        told.append(f"Default: {shown:g}." if isinstance(shown, float) else f"Default: {shown}.")
    if parameter.envvar:
        told.append(f"Also `{parameter.envvar}`.")
    return " ".join(told)
