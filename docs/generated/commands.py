"""The commands, with the help that they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

# Narrow enough for a page, and the same on every terminal.
_ENVIRONMENT = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "LC_ALL": "C.UTF-8"}


def commands() -> str:
    """Each command with its help, in the order that ``headwater --help`` has."""
    return "\n\n".join(
        f"## `headwater {name}`\n\n```text\n{help_of(*name.split())}\n```" for name in names()
    )


def names() -> Iterator[str]:
    """All commands; a group's own commands instead of the group."""
    from typer.main import get_command

    from headwater.cli import application

    group: Any = get_command(application())
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name
        else:
            yield from (f"{name} {each}" for each in inner)


def help_of(*name: str) -> str:
    """What ``headwater NAME --help`` prints."""
    done = subprocess.run(  # noqa: S603 - its own arguments
        [sys.executable, "-m", "headwater", *name, "--help"],
        env={**os.environ, **_ENVIRONMENT},
        capture_output=True,
        text=True,
        check=True,
    )
    text = "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip()
    return re.sub(r"python -m headwater", "headwater", text)
