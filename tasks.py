"""The project's task list: ``uv run tasks.py``, and ``.ci/run`` runs its ``ci``.

A script of the standard library, because ``make`` and ``just`` are not on a machine that has only
Python and pip.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent

# The oldest FastAPI that the package allows, two in between where FastAPI changed how routers
# include each other, and the newest. Each brings the Starlette that fits it.
FASTAPI = ("fastapi==0.115.*", "fastapi==0.135.*", "fastapi==0.150.*", "fastapi")


def web_tests(fastapi: str) -> str:
    """The web tests in an environment of their own that is thrown away, with that FastAPI."""
    return f"uv run --isolated --with {fastapi} python -m pytest tests/web"


# Each task is commands, run in order. A word that starts with @ runs another task.
TASKS: dict[str, tuple[str, list[str]]] = {
    "test": ("the whole test suite", ["uv run pytest"]),
    "lint": ("ruff's rules", ["uv run ruff check"]),
    "format": ("rewrite files in ruff's format", ["uv run ruff format"]),
    "format-check": (
        "list the files that are not in ruff's format",
        ["uv run ruff format --check"],
    ),
    "types": ("mypy --strict on the package", ["uv run mypy"]),
    "docs": ("write the generated parts of docs/ anew", ["uv run docs/generate.py"]),
    "docs-check": (
        "code blocks run, links resolve, the reference is complete and current",
        ["uv run docs/generate.py --check", "uv run pytest tests/docs"],
    ),
    "wheel": ("build the wheel and try it in clean environments", ["uv run .ci/wheel.py"]),
    "long": (
        "what `test` leaves out: further engines and sizes, kills, browsers",
        ["uv run pytest -m 'long and not soak'"],
    ),
    "soak": (
        "minutes of load, kills and property runs; CI does not run them",
        ["uv run pytest -m soak --timeout=1200 -n 2"],
    ),
    "frameworks": ("the web tests on four FastAPIs", [web_tests(each) for each in FASTAPI]),
    "frameworks-ends": (
        "the web tests on the oldest FastAPI and on the newest",
        [web_tests(FASTAPI[0]), web_tests(FASTAPI[-1])],
    ),
    "check": (
        "what to run before a commit",
        ["@lint", "@format-check", "@types", "@test"],
    ),
    "ci": (
        "everything that CI runs",
        # The test command stands first and as the README gives it. It includes tests/docs, so
        # of the docs checks only the generated parts are left.
        [
            *(
                "@test",
                "@long",
                "@lint",
                "@format-check",
                "@types",
                "uv run docs/generate.py --check",
            ),
            *("@wheel", "@frameworks-ends"),
        ],
    ),
}


def commands(task: str) -> list[str]:
    """The commands of a task, with those of the tasks that it names."""
    found: list[str] = []
    for command in TASKS[task][1]:
        found += commands(command[1:]) if command.startswith("@") else [command]
    return found


def run(task: str, extra: list[str]) -> int:
    """Run all commands of a task, also after one that failed. Returns 0, or 1 for a failure."""
    failed: list[str] = []
    for command in commands(task):
        words = [*shlex.split(command), *extra]
        say(f"$ {shlex.join(words)}")
        began = time.monotonic()
        # The words come from the table above and from the caller.
        code = subprocess.run(words, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode  # noqa: S603
        say(f"  {'ok' if code == 0 else f'exit {code}'}, {time.monotonic() - began:.0f} s")
        if code:
            failed.append(command)
    for command in failed:
        say(f"failed: {command}")
    return 1 if failed else 0


def say(line: str) -> None:
    """Write a line at once, so that it stands before what the next command writes."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """``tasks.py TASK [ARGUMENT...]``; further arguments go to the task's commands."""
    if not arguments or arguments[0] not in TASKS:
        say("uv run tasks.py TASK [ARGUMENT...]\n")
        for name, (about, _) in TASKS.items():
            say(f"  {name:<17}{about}")
        return 0 if not arguments else 2
    # Commands run in the project's environment, not in one that is active outside.
    os.environ.pop("VIRTUAL_ENV", None)
    return run(arguments[0], arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
