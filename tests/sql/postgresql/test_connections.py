"""One line of configuration says where the database is, in the words that people know."""

import sys

import pytest
from sqlalchemy import text

from headwater.errors import DeclarationError, MissingExtraError
from headwater.sql import postgresql_engine


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
async def test_addresses_as_libpq_takes_them(postgres, scheme):
    engine = postgresql_engine(
        f"{scheme}:///postgres?host={postgres.folder}&user=postgres&application_name=mine"
    )
    async with engine.connect() as connection:
        assert await connection.scalar(text("SHOW application_name")) == "mine"
    await engine.dispose()


def test_several_hosts_and_passwords():
    engine = postgresql_engine("postgresql://ann:s%40cret@one:1,two:2/name?sslmode=require")
    assert engine.url.password == "s@cret"
    assert engine.url.query["host"] == "one,two"
    assert "s@cret" not in str(engine.url)


@pytest.mark.parametrize(
    "url", ["mysql://ann:secret@x/y", "postgresql://ann:secret@x/y?nope=1", ""]
)
def test_what_cannot_be_read_is_refused_without_the_password(url):
    with pytest.raises(DeclarationError) as caught:
        postgresql_engine(url)
    assert "secret" not in str(caught.value)


def test_a_missing_driver_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match="headwater\\[postgres\\]"):
        postgresql_engine("postgresql:///x")
