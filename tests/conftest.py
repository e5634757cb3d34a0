"""What tests of several parts share."""

import pytest

from support.postgres import Postgres

pytest_plugins = ["support.cpu"]


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
