"""The locks of a migration on PostgreSQL, so that writers wait for some milliseconds.

While a statement waits for the lock of a table, everybody else who writes to the table waits behind
it. So it gives up soon where a long transaction has the table, lets the others pass, and tries
again, each time for longer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from headwater.sql._tracking import Tracking
from headwater.sql.postgresql._triggers import qualified, run

logger = logging.getLogger("headwater.sql")

# Seconds for which one try waits for the lock of the table, and then lets others pass.
PATIENCE = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
# The same for any other lock.
LOCK_TIMEOUT = "5s"

_NOT_AVAILABLE = "55P03"


def is_alone(connection: sa.Connection) -> bool:
    """Whether each statement is a transaction of its own."""
    driver = connection.connection.dbapi_connection
    return driver is not None and bool(getattr(driver, "autocommit", False))


@contextmanager
def step(connection: sa.Connection) -> Iterator[None]:
    """A short transaction of its own on a connection in AUTOCOMMIT; else the caller's."""
    if not is_alone(connection):
        # The rest of the caller's transaction keeps its own time-out.
        before = connection.scalar(sa.text("SELECT current_setting('lock_timeout')"))
        _wait_for_locks(connection, LOCK_TIMEOUT)
        yield
        _wait_for_locks(connection, before)
        return
    run(connection, "BEGIN")
    try:
        _wait_for_locks(connection, LOCK_TIMEOUT)
        yield
    except BaseException:
        run(connection, "ROLLBACK")
        raise
    run(connection, "COMMIT")


def lock_table(connection: sa.Connection, tracking: Tracking) -> None:
    """Lock a table until the end of the step, once no other transaction has it.

    Raises the driver's error after the last try.
    """
    table = qualified(tracking)
    for tried, patience in enumerate(PATIENCE, 1):
        run(connection, "SAVEPOINT headwater_lock")
        try:
            _wait_for_locks(connection, f"{patience * 1000:.0f}ms")
            run(connection, f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        except sa.exc.DBAPIError as error:
            states = (getattr(error.orig, name, None) for name in ("sqlstate", "pgcode"))
            if _NOT_AVAILABLE not in states or tried == len(PATIENCE):
                raise
            run(connection, "ROLLBACK TO SAVEPOINT headwater_lock")
            logger.info("%s: another transaction has it; waited %g s for its lock", table, patience)
            time.sleep(patience)
        else:
            _wait_for_locks(connection, LOCK_TIMEOUT)
            run(connection, "RELEASE SAVEPOINT headwater_lock")
            return


def _wait_for_locks(connection: sa.Connection, longest: str) -> None:
    """Set the time-out until the end of the transaction."""
    connection.execute(
        sa.text("SELECT set_config('lock_timeout', :longest, true)"), {"longest": longest}
    )
