"""PgBouncer in transaction mode before a test's PostgreSQL server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg

from support.postgres import NOBODY, Postgres
from support.until import waited

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
SETTINGS = """
[databases]
* = host={host}
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
auth_type = any
pool_mode = transaction
default_pool_size = 5
max_client_conn = 300
logfile = {folder}/log
pidfile = {folder}/pid

"""


class PgBouncer:
    """One process."""

    def __init__(self, postgres: Postgres) -> None:
        assert PROGRAM is not None
        self.folder = Path(tempfile.mkdtemp(prefix="headwater-pb-"))
        settings = self.folder / "settings.ini"
        # auth_type any needs a name for the connections to the server.
        text = SETTINGS.format(host=postgres.folder, folder=self.folder)
        settings.write_text(text.replace("* = ", "* = user=postgres "))
        owner = {"user": NOBODY, "group": NOBODY} if os.geteuid() == 0 else {}
        if owner:
            shutil.chown(self.folder, NOBODY, NOBODY)
        self._process = subprocess.Popen(
            [PROGRAM, settings],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **owner,
        )

    def start(self, database: str) -> None:
        waited(lambda: self._answers(database), 20.0, lambda: (self.folder / "log").read_text())

    def _answers(self, database: str) -> bool:
        try:
            psycopg.connect(f"host={self.folder} port=6432 dbname={database} user=any").close()
        except psycopg.OperationalError:
            return False
        return True

    def url(self, driver: str, database: str) -> str:
        return f"postgresql+{driver}://any@/{database}?host={self.folder}&port=6432"

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            shutil.rmtree(self.folder, ignore_errors=True)
