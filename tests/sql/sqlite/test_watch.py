"""Whether a database is a file decides who notices the commits of others."""

import os

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from headwater.sql.sqlite.connections import file_of


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite:///b.db", os.path.abspath("b.db")),
        ("sqlite:///file:/a/b.db?uri=true", "/a/b.db"),
        ("sqlite:///file:///a/b.db?uri=true", "/a/b.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("sqlite:///file::memory:?cache=shared&uri=true", None),
        ("sqlite:///file:x?mode=memory&cache=shared&uri=true", None),
    ],
)
def test_the_file_of_an_engine(url, path):
    engine = create_engine(url, poolclass=StaticPool)
    assert file_of(engine) == path
    engine.dispose()
