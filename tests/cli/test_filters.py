"""``--filter`` and ``--since`` as people write them."""

from datetime import UTC, datetime, timedelta

import pytest
import typer

from headwater.cli.filters import moment_of, parse_filter, parse_since
from headwater.errors import UsageError

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ITEM = {
    "level": "error",
    "message": "Disk FULL",
    "cpu": 91.5,
    "ok": True,
    "none": None,
    "at": "2026-01-31T11:00:00Z",
    "fields": {"host": "north", "a.b": 1},
    "list": [1, 2],
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("level=error", True),
        ("level=info", False),
        ("level!=info", True),
        ("level!=error", False),
        ("message~disk", True),
        ("message~tape", False),
        ("message=Disk FULL", True),
        ("cpu>90", True),
        ("cpu>=91.5", True),
        ("cpu<91.5", False),
        ("cpu<=91.5", True),
        ("cpu=91.50", True),
        ("cpu>x", False),
        ("ok=true", True),
        ("none=null", True),
        ("at>2026-01-31", True),
        ("at<2026-01-31", False),
        ("fields.host=north", True),
        ("fields.port=1", False),
        ("fields.port!=1", True),
        ("level.more=1", False),
        ("list=[1, 2]", True),
        ("list>1", False),
        ("missing=", False),
        ("level=", False),
        ("message~=", False),
    ],
)
def test_a_filter_says_which_items_are_shown(text, shown):
    assert parse_filter(text).matches(ITEM) is shown


@pytest.mark.parametrize("text", ["", "level", "=error", "a b=c", "~x"])
def test_what_is_no_filter_is_refused_with_examples(text):
    with pytest.raises(typer.BadParameter, match="level=error"):
        parse_filter(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("10m", NOW - timedelta(minutes=10)),
        (" 2h ", NOW - timedelta(hours=2)),
        ("1d", NOW - timedelta(days=1)),
        ("2026-01-31T12:00:00Z", NOW),
        ("2026-01-31T13:00+01:00", NOW),
        ("2026-01-31", datetime(2026, 1, 31).astimezone()),
    ],
)
def test_since_is_an_age_or_a_moment(text, moment):
    assert parse_since(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "10", "1w", "-1h", "999999999d", "0001-01-01"])
def test_what_is_no_time_is_refused_with_examples(text):
    with pytest.raises(typer.BadParameter, match="10m"):
        parse_since(text, NOW)


@pytest.mark.parametrize(
    ("item", "moment"),
    [
        ({"at": "2026-01-31T12:00:00Z"}, NOW),
        ({"created_at": "2026-01-31T12:00:00"}, NOW),
    ],
)
def test_an_items_own_time(item, moment):
    assert moment_of(item) == moment


@pytest.mark.parametrize("item", [{"at": "soon"}, {"at": 5}, {}])
def test_an_item_without_a_time_is_an_error(item):
    with pytest.raises(UsageError, match="--since works for items with a time"):
        moment_of(item)
