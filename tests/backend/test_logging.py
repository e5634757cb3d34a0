"""Logs of this and of other packages, as one JSON object per line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from headwater.backend.logging import set_up_logging


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_one_object_per_line(capsys: pytest.CaptureFixture[str]):
    set_up_logging("info", "json")
    logging.getLogger("other.package").warning("%s of %s", 1, 2, extra={"color_message": "x"})
    structlog.stdlib.get_logger("headwater.access").info("request", path="/api/logs", ms=1.5)
    logging.getLogger("other.package").debug("not this")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("headwater").exception("it failed")
    one, two, three = map(json.loads, capsys.readouterr().err.splitlines())
    assert (one["message"], one["level"], one["logger"]) == ("1 of 2", "warning", "other.package")
    assert "color_message" not in one
    assert (two["message"], two["path"], two["ms"]) == ("request", "/api/logs", 1.5)
    assert "ValueError: two\nlines" in three["exception"]
    assert one["timestamp"].endswith("Z")


def test_a_terminal_obeys_no_stranger(capsys: pytest.CaptureFixture[str]):
    """A path may hold escape sequences, and line breaks that forge a line."""
    set_up_logging("info", "text")
    evil = "/\x1b[2J\x1b]0;owned\x07\r\nINFO all is well\x9b31m\u202e\u2028"
    structlog.stdlib.get_logger("headwater.access").info("request", path=evil)
    logging.getLogger("headwater").warning("no file %s", evil)
    try:
        raise ValueError(evil)
    except ValueError:
        logging.getLogger("headwater").exception("it failed")
    written = capsys.readouterr().err
    assert not set(written) & {"\x1b", "\x07", "\r", "\x9b", "\u202e", "\u2028"}
    assert "\\x1b[2J" in written
    assert sum(line.startswith("INFO") for line in written.splitlines()) <= 1
    assert "Traceback" in written


def test_text_where_it_is_wanted(capsys: pytest.CaptureFixture[str]):
    set_up_logging("warning", "text")
    logging.getLogger("headwater").warning("a sentence")
    assert "a sentence" in capsys.readouterr().err


def test_what_each_request_meets_is_logged_once_a_second(capsys: pytest.CaptureFixture[str]):
    """While the database is away anyone could fill the disk with one line for each request."""
    set_up_logging("warning", "text")
    for number in range(1000):
        logging.getLogger("headwater.web").warning("The database cannot be read: %s", "away")
        logging.getLogger("headwater.backend").warning("other loggers say all, %s", number)
        logging.getLogger("headwater.web").error("it failed", exc_info=ValueError(number))
    written = capsys.readouterr().err
    assert written.count("ValueError: ") == 1000
    assert 1 <= written.count("cannot be read") < 20
    assert written.count("say all") == 1000
