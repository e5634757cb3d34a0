"""Moments: whatever the database takes can be read, and what sorts as text sorts as time."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite

from headwater.backend.times import Moment, moment_check, sorted_moment_check, utc_now

DIALECT = sqlite.dialect()
DATABASE = sqlite3.connect(":memory:")

aware = st.datetimes(
    min_value=datetime(1900, 1, 1),
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
)
# Around what is a date, where SQLite and Python differ.
days = st.builds(
    "{:04}-{:02}-{:02}".format, st.integers(999, 9999), st.integers(0, 13), st.integers(0, 32)
)
zones = r" ?([zZ]|[+-][0-2][0-9]:[0-6][0-9])?"
clocks = st.from_regex(
    rf"([T ]?[0-2][0-9]:[0-6][0-9](:[0-6][0-9](\.[0-9]{{0,8}})?)?{zones})?", fullmatch=True
)
nearly = st.builds("{}{}".format, days, clocks)


@pytest.fixture(scope="module", autouse=True)
def database():
    yield
    DATABASE.close()


def accepted(check: str, value: object) -> bool:
    row = DATABASE.execute(f"SELECT {check} FROM (SELECT ? AS c)", (value,)).fetchone()
    return row[0] is None or bool(row[0])


def read(value: str) -> datetime | None:
    found: datetime | None = Moment().result_processor(DIALECT, None)(value)
    return found


@given(aware)
def test_what_was_written_is_read(moment: datetime):
    text = Moment().process_bind_param(moment, DIALECT)
    assert read(text) == moment
    assert accepted(moment_check("c"), text)
    assert accepted(sorted_moment_check("c"), text)


@given(aware, aware)
def test_text_sorts_as_time_does(one: datetime, two: datetime):
    texts = [Moment().process_bind_param(moment, DIALECT) for moment in (one, two)]
    assert (texts[0] < texts[1]) == (one < two)


@given(nearly | st.text(max_size=30))
def test_whatever_the_database_takes_can_be_read(text: str):
    """A row that cannot be shown would stop its feed."""
    if accepted(moment_check("c"), text):
        moment = read(text)
        assert moment is not None
        assert moment.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    ["2026-02-31", "2026-01-01 24:00:00", "7", "12:00", "2461000.5", "0000-01-01", ""]
    + ["2026-01-01 00:00:00 Z", "2026-01-01T00:00:00z"],
)
def test_what_only_sqlite_takes_for_a_date_is_refused(text: str):
    assert not accepted(moment_check("c"), text)


@pytest.mark.parametrize(
    "text", ["2026-01-02T03:04:05Z", "2026-01-02", "2026-01-02 03:04:05+02:00"]
)
def test_a_moment_that_is_compared_has_one_form(text: str):
    assert accepted(moment_check("c"), text)
    assert not accepted(sorted_moment_check("c"), text)
    assert accepted(sorted_moment_check("c"), "2026-01-02 03:04:05")
    assert accepted(sorted_moment_check("c"), "2026-01-02 03:04:05.123")


def test_the_databases_own_now():
    [text] = DATABASE.execute("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')").fetchone()
    assert accepted(sorted_moment_check("c"), text)
    moment = read(text)
    assert moment is not None
    assert abs(moment - utc_now()) < timedelta(seconds=5)


def test_a_moment_is_aware():
    with pytest.raises(ValueError, match="no time zone"):
        Moment().process_bind_param(datetime(2026, 1, 1), DIALECT)
