"""What has to be built or installed before a peer can run; kept in a cache outside the repo."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).parent
APPS = HERE / "apps"

NODE_PACKAGES = {"fastify": "5", "@fastify/sse": "0.6", "better-sse": "0.16"}
# The peers in Python run with the versions that ours runs with.
SHARED = ("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "pydantic")
PEERS = {"sse-starlette": ">=3"}


class MissingError(Exception):
    """A tool, module or package is not here: the peer is left out, and the reason is shown."""


def cache() -> Path:
    """The folder of what was built."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "headwater-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def compiled(name: str) -> Path:
    """The program of ``name.c``. Raises MissingError without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise MissingError("no C compiler was found: install one as cc")
    sources = [HERE / f"{name}.c", *sorted(HERE.glob(f"{name}_*.[ch]"))]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    program = cache() / f"{name}-{digest}"
    if not program.exists():
        made = program.with_name(f"{program.name}.{os.getpid()}")
        units = [str(source) for source in sources if source.suffix == ".c"]
        run([compiler, "-O2", "-o", str(made), *units], f"compiling {name}.c")
        made.rename(program)
    return program


def node_folder() -> Path:
    """A folder with the peers that run on node. Raises MissingError."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise MissingError("node and npm were not found")
    folder = cache() / "node"
    wanted = json.dumps({"private": True, "dependencies": NODE_PACKAGES})
    manifest = folder / "package.json"
    folder.mkdir(exist_ok=True)
    if not (folder / "node_modules").exists() or manifest.read_text() != wanted:
        manifest.write_text(wanted)
        run(
            [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts"],
            "npm install",
            cwd=folder,
        )
    for source in APPS.glob("*.mjs"):
        shutil.copy(source, folder)
    return folder


def node_version(package: str) -> str:
    found = json.loads((node_folder() / "node_modules" / package / "package.json").read_text())
    return str(found["version"])


def peer_python() -> Path:
    """An interpreter whose environment has the peers in Python. Raises MissingError."""
    folder = cache() / "python"
    pinned = [f"{name}=={version(name)}" for name in SHARED if _has(name)]
    pinned += [f"{name}{bound}" for name, bound in PEERS.items()]
    pinned += [
        f"sqlalchemy[asyncio]=={version('sqlalchemy')}",
        f"aiosqlite=={version('aiosqlite')}",
    ]
    stamp, wanted = folder / "installed", "\n".join([sys.version, *pinned])
    python = folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != wanted:
        uv = shutil.which("uv")
        venv.create(folder, clear=True, with_pip=uv is None)
        install = [uv, "pip", "install", "--quiet", "--python"] if uv else []
        command = [*install, str(python)] if uv else [str(python), "-m", "pip", "install", "-q"]
        run([*command, *pinned], "installing the peers in Python")
        stamp.write_text(wanted)
    return python


def peer_version(package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return run([str(peer_python()), "-c", code], package).strip()


def run(
    command: list[str],
    what: str,
    *,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
) -> str:
    """A command's output. Raises MissingError with its last line when it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"{what}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it failed"])[-1]
        raise MissingError(f"{what}: {last}")
    return done.stdout


def _has(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
