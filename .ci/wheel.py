#!/usr/bin/env -S uv run
"""Build the wheel, look inside, and try it with each extra in an environment that has nothing else.

The tests run on the sources; this is what shows that the package people install works.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Files that are no Python modules are what a build leaves out without a word.
DATA = (
    "headwater/py.typed",
    "headwater/backend/console/index.html",
    "headwater/backend/console/headwater.js",
    "headwater/backend/console/style/base.css",
    "headwater/backend/migrations/env.py",
)

# What must work with each extra and nothing else. "" is the package alone.
TRIALS: dict[str, str] = {
    "": (
        "import headwater, headwater.eventlog, headwater.protocol\n"
        "from headwater.errors import MissingExtraError\n"
        "for name in ('sql', 'web.fastapi', 'client'):\n"
        "    try:\n"
        "        __import__('headwater.' + name)\n"
        "    except MissingExtraError as error:\n"
        "        assert 'pip install' in str(error), error\n"
        "    else:\n"
        "        raise SystemExit(f'headwater.{name} was imported without its extra')\n"
    ),
    "fastapi": "from headwater.web.fastapi import LiveRouter; LiveRouter()",
    "sql": "from headwater.sql import Table, track; from headwater.eventlog.sql import SqlLog",
    "postgres": "import headwater.sql, psycopg",
    "asyncpg": "import headwater.sql, asyncpg",
    "redis": "from headwater.eventlog import open_log; open_log('redis://127.0.0.1/0')",
    "nats": "from headwater.eventlog import open_log; open_log('nats://127.0.0.1')",
    "ai-sdk": "from headwater.adapters import ai_sdk",
    "ag-ui": "from headwater.adapters import ag_ui",
    "mcp": (
        "from headwater.adapters.mcp import EventStore\n"
        "from headwater.eventlog import MemoryLog\n"
        "EventStore(MemoryLog())"
    ),
    "client": "import headwater.client, headwater.client.sync",
    "cli": (
        "import subprocess, sys\n"
        "from pathlib import Path\n"
        "command = str(Path(sys.executable).with_name('headwater'))\n"
        "subprocess.run([command, '--help'], check=True, stdout=subprocess.DEVNULL)\n"
        "asked = subprocess.run([command, 'migrate'], capture_output=True, text=True)\n"
        "assert asked.returncode == 1 and 'headwater[backend]' in asked.stderr, asked\n"
    ),
    "backend": (
        "import subprocess, sys, tempfile\n"
        "from pathlib import Path\n"
        "command = str(Path(sys.executable).with_name('headwater'))\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    url = f'sqlite:///{folder}/headwater.db'\n"
        "    subprocess.run([command, 'migrate', '--database', url], check=True)\n"
    ),
}


def main() -> int:
    """Returns 0 when the wheel is whole and works, else 1."""
    with tempfile.TemporaryDirectory() as folder:
        build = ["uv", "build", "--quiet", "--out-dir", folder]
        subprocess.run(build, cwd=ROOT, check=True)  # noqa: S603 - its own arguments
        (wheel,) = Path(folder).glob("*.whl")
        say(f"{wheel.name}: {wheel.stat().st_size // 1024} KB")
        problems = look_inside(wheel)
        for extra in ("", *extras()):
            problem = attempt(wheel, extra, TRIALS.get(extra, "raise SystemExit('no trial here')"))
            say(f"  headwater{f'[{extra}]' if extra else ''}: {problem or 'works'}")
            problems += [problem] if problem else []
    return 1 if problems else 0


def extras() -> list[str]:
    """All of them, so that a new one is not forgotten here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(project["optional-dependencies"])


def look_inside(wheel: Path) -> list[str]:
    """What is missing, or should not be there."""
    names = zipfile.ZipFile(wheel).namelist()
    problems = [f"{name} is not in the wheel" for name in DATA if name not in names]
    problems += [
        f"{name} should not be in the wheel"
        for name in names
        if not name.startswith(("headwater/", "headwater-")) or "__pycache__" in name
    ]
    for problem in problems:
        say(f"  {problem}")
    return problems


def attempt(wheel: Path, extra: str, code: str) -> str:
    """Run ``code`` with the wheel, one extra and what they need; what went wrong, or nothing."""
    wanted = f"headwater{f'[{extra}]' if extra else ''} @ {wheel.as_uri()}"
    command = ["uv", "run", "--quiet", "--isolated", "--no-project", "--python", sys.executable]
    done = subprocess.run(  # noqa: S603 - its own arguments
        [*command, "--with", wanted, "python", "-W", "error", "-c", code],
        cwd=wheel.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout + done.stderr).strip() if done.returncode else ""


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
