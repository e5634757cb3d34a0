"""What tests of several parts share."""

import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support.postgres import Postgres

pytest_plugins = ["support.cpu"]

# Each httpx client would read all certificates of the system, which takes 30 ms. Tests speak HTTP.
os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent)

if sys.dont_write_bytecode:
    # A run starts hundreds of processes, and each would compile all that it imports. Nothing is
    # written beside the sources: it stands with what pytest keeps between runs.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix


# A busy machine is no fault of a test.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="session")
def postgres():
    """One PostgreSQL server for all tests that ask for it; each makes databases of its own."""
    server = Postgres()
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.remove()


def pytest_collection_finish() -> None:
    """Spare the collector what stays to the end: the tests' modules and those that they import.

    To traverse these again and again took a fifth of the suite's processor time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
