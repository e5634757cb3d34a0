"""Structured logs: one JSON object per line, or readable text on a terminal.

Passwords, tokens and bodies are never logged.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import MutableMapping
from typing import Any

import structlog

# C0 and C1: ESC among them, and line breaks, which would forge a line. Then Unicode's line breaks,
# and what turns the direction of text, so that a line reads as another one.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_CONTROL_IN_LINES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_OF_LINES = frozenset({"exception", "stack"})
# These log much that is of no use to an operator.
_QUIET = {"aiosqlite": logging.WARNING, "uvicorn.access": logging.WARNING}
# Seconds for which a message of requests is not logged again: while the database is away each of
# them has it.
_AGAIN = 1.0
_MOST_KNOWN = 100


def set_up_logging(level: str = "info", form: str = "auto") -> None:
    """Send the logs of this process to standard error.

    Arguments:
        level: the lowest level that is logged, such as ``"info"``.
        form: ``"json"``, ``"text"``, or ``"auto"``: text on a terminal, json elsewhere.
    """
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if text else "iso", utc=not text),
    ]
    if text:
        last: list[Any] = [
            _escape,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    else:
        last = [
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _drop_colours],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                *last,
            ],
        )
    )
    handler.addFilter(_Repeated("headwater.web"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)


class _Repeated(logging.Filter):
    """Leaves out a message of some loggers that was logged within the last second."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._logged: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        # Two errors with one message have different tracebacks.
        if record.exc_info or not super().filter(record):
            return True
        now, message = time.monotonic(), record.getMessage()
        if now - self._logged.get(message, -_AGAIN) < _AGAIN:
            return False
        if len(self._logged) >= _MOST_KNOWN:
            self._logged.clear()
        self._logged[message] = now
        return True


def _escape(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape control characters, which a terminal would obey.

    A stranger may have written a path or a message. Only a traceback keeps its line breaks.
    """
    for name, value in event.items():
        if isinstance(value, str):
            unsafe = _CONTROL_IN_LINES if name in _OF_LINES else _CONTROL
            event[name] = unsafe.sub(lambda found: f"\\x{ord(found[0]):02x}", value)
    return event


def _drop_colours(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Removes uvicorn's second copy of each message, which has colours."""
    event.pop("color_message", None)
    return event
