"""The bar of a migration that numbers a large table: on a terminal, and nowhere else."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

CODE = """
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from headwater.sql.alembic import add_tracking
with sa.create_engine("sqlite://").begin() as connection:
    connection.exec_driver_sql("CREATE TABLE old (id INTEGER PRIMARY KEY, n)")
    connection.exec_driver_sql(
        "WITH RECURSIVE some(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM some LIMIT 20000) "
        "INSERT INTO old (n) SELECT n FROM some"
    )
    add_tracking(Operations(MigrationContext.configure(connection)), "old")
    print(connection.scalar(sa.text("SELECT count(headwater_change) FROM old")))
"""


def test_in_a_pipe_there_is_none():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("20000\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals like these")
def test_on_a_terminal_whoever_runs_the_migration_sees_that_it_goes_on():
    import pty

    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=theirs, text=True, timeout=60
    )
    os.close(theirs)
    shown = os.read(ours, 1_000_000).decode()
    os.close(ours)
    assert done.stdout == "20000\n"
    assert re.search(r"old: numbering rows █+░+ 1?\d,000 of 20,000", shown)
    assert shown.endswith("\r\x1b[K"), "it leaves no trace"
