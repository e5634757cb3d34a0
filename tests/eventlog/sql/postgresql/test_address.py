"""Which addresses libpq takes, and what is said of others."""

import pytest

from headwater.errors import UsageError
from headwater.eventlog import open_log
from headwater.eventlog.sql import open_postgresql


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("postgresql:///db?host=/folder", {"dbname": "db", "host": "/folder"}),
        ("postgresql://u:p%40w@h:5433/db", {"user": "u", "password": "p@w", "port": "5433"}),
        ("postgres://h1:1,h2:2/db", {"host": "h1,h2", "port": "1,2"}),
        ("postgresql+psycopg://u@h/db?sslmode=require", {"sslmode": "require", "host": "h"}),
        ("postgresql://[::1]:5433/db", {"host": "::1", "port": "5433"}),
        ("postgresql://[::1]/db", {"host": "::1"}),
        ("postgresql://h/db?connect_timeout=3", {"connect_timeout": "3"}),
        ("postgresql://", {"connect_timeout": "10", "application_name": "headwater"}),
    ],
)
async def test_what_libpq_takes(url, wanted):
    engine = open_postgresql(url).engine
    given = engine.dialect.create_connect_args(engine.url)[1]
    assert {name: str(given.get(name)) for name in wanted} == wanted
    await engine.dispose()


@pytest.mark.parametrize(
    "url", ["postgresql://u:secret@h/db?nonsense=1", "postgresql://u:secret@h:port:port/db"]
)
def test_what_it_does_not_take(url):
    """The sentence never shows a password."""
    with pytest.raises(UsageError, match="postgresql:///name") as caught:
        open_log(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
