"""One line of configuration says where the database is, in the words that people know."""

import sys

import pytest
from sqlalchemy import text

from headwater.backend.database import Address, Database
from headwater.errors import DeclarationError, MissingExtraError
from headwater.eventlog.sql import open_postgresql
from headwater.sql import postgresql_engine


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
async def test_addresses_as_libpq_takes_them(postgres, scheme):
    engine = postgresql_engine(
        f"{scheme}:///postgres?host={postgres.folder}&user=postgres&application_name=mine"
    )
    async with engine.connect() as connection:
        assert await connection.scalar(text("SHOW application_name")) == "mine"
    await engine.dispose()


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("postgresql:///db?host=/folder", {"dbname": "db", "host": "/folder"}),
        ("postgresql://u:p%40w@h:5433/db", {"user": "u", "password": "p@w", "port": "5433"}),
        ("postgres://h1:1,h2:2/db", {"host": "h1,h2", "port": "1,2"}),
        ("postgresql://h1,h2/db?port=5433", {"host": "h1,h2", "port": "5433,5433"}),
        ("postgresql://%2Ffolder/db", {"host": "/folder"}),
        ("postgresql+psycopg://u@h/db?sslmode=require", {"sslmode": "require", "host": "h"}),
        ("postgresql://[::1]:5433/db", {"host": "::1", "port": "5433"}),
        ("postgresql://h/db?connect_timeout=3", {"connect_timeout": "3"}),
        ("postgresql://", {"connect_timeout": "10", "application_name": "headwater"}),
    ],
)
@pytest.mark.parametrize(
    "take",
    [
        postgresql_engine,
        lambda url: open_postgresql(url).engine,
        lambda url: Database(Address.parse(url)).engine,
    ],
    ids=["table", "event log", "backend"],
)
async def test_every_part_takes_what_libpq_takes(take, url, wanted):
    engine = take(url)
    given = engine.dialect.create_connect_args(engine.url)[1]
    assert {name: str(given.get(name)) for name in wanted} == wanted
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


@pytest.mark.parametrize("name", ["connect_timeout", "keepalives", "tcp_user_timeout"])
@pytest.mark.parametrize("value", ["abc", "", "1.5", "9" * 20])
def test_an_option_that_must_be_a_number_is_named(name, value):
    """The drivers read it at the first connection; until then a wrong one goes unnoticed."""
    with pytest.raises(DeclarationError, match=f"{name}={value}, which is no whole number") as said:
        postgresql_engine(f"postgresql://ann:secret@h/db?{name}={value}")
    assert "secret" not in str(said.value)


def test_a_missing_driver_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match="headwater\\[postgres\\]"):
        postgresql_engine("postgresql:///x")
