"""Log lines of the demo's services."""

from __future__ import annotations

import random
from collections.abc import Callable
from string import Formatter
from typing import Any

from headwater.backend.logs.schemas import EntryCreate
from headwater.backend.models import LogLevel

Draw = random.Random


def _int(low: int, high: int) -> Callable[[Draw], int]:
    return lambda draw: draw.randint(low, high)


def _of(*values: Any) -> Callable[[Draw], Any]:
    return lambda draw: draw.choice(values)


def _hex(digits: int) -> Callable[[Draw], str]:
    return lambda draw: f"{draw.getrandbits(digits * 4):0{digits}x}"


# The fields of lines by name. A message shows some of them.
_FIELDS: dict[str, Callable[[Draw], Any]] = {
    "attempt": _int(1, 4),
    "by": _of("password", "key"),
    "job": _hex(6),
    "key": lambda draw: f"doc:{draw.randint(1, 9999)}",
    "lag": _int(30, 400),
    "limit": _of(60, 120),
    "method": _of("GET", "GET", "POST"),
    "ms": _int(3, 180),
    "outcome": _of("hit", "hit", "miss"),
    "path": _of("/v1/tools", "/v1/sessions", "/v1/complete", "/v1/files", "/health"),
    "pool": _int(1, 8),
    "queue": _of("default", "mail", "index"),
    "reason": _of("time-out after 30 s", "bad gateway", "invalid JSON"),
    "rows": _int(0, 500),
    "seconds": lambda draw: round(draw.uniform(1.2, 5.2), 1),
    "session": _hex(8),
    "status": _of(200, 200, 200, 201, 204, 304),
    "task": _of("nightly-report", "reindex", "sync"),
    "tool": _of(
        "search_docs", "read_file", "run_query", "create_issue", "list_tables", "fetch_page"
    ),
    "user": _hex(6),
    "wait": _of(5, 15, 60),
}

# How often, the level, the source, the message, and a field that the message does not show.
_KINDS: tuple[tuple[float, LogLevel, str, str, str | None], ...] = (
    (16, "info", "gateway", "{method} {path} {status} in {ms} ms", None),
    (12, "info", "mcp-router", "tool {tool} answered in {ms} ms", "session"),
    (6, "info", "auth", "user {user} signed in", "by"),
    (6, "info", "worker", "job {job} done after {ms} ms", "queue"),
    (4, "info", "scheduler", "started {task}", None),
    (9, "debug", "cache", "{outcome} for {key}", None),
    (7, "debug", "database", "{rows} rows in {ms} ms", "pool"),
    (5, "warning", "gateway", "slow answer: {path} took {seconds} s", "method"),
    (4, "warning", "mcp-router", "session {session} sends more than {limit} calls a minute", None),
    (2, "warning", "auth", "wrong password for user {user}", "attempt"),
    (3, "error", "mcp-router", "tool {tool} failed: {reason}", "session"),
    (2, "error", "worker", "job {job} failed, trying again in {wait} s", "attempt"),
    (0.3, "critical", "database", "replica is {lag} s behind", None),
)
_WEIGHTS = [kind[0] for kind in _KINDS]

_INCIDENTS = {
    "database": ("connection pool exhausted", "query cancelled after {n} s", "waiting for a lock"),
    "gateway": ("upstream timed out after {n} s", "502 from upstream", "circuit opened"),
    "mcp-router": ("session dropped after {n} s", "tool server does not answer", "queue is full"),
}


def line(draw: Draw) -> EntryCreate:
    """One ordinary line."""
    _, level, source, message, further = draw.choices(_KINDS, _WEIGHTS)[0]
    shown = [name for _, name, _, _ in Formatter().parse(message)]
    fields = {name: _FIELDS[name](draw) for name in (*shown, further) if name is not None}
    return EntryCreate(level=level, source=source, message=message.format(**fields), fields=fields)


def incident(draw: Draw) -> tuple[str, list[EntryCreate]]:
    """A source in trouble, and its lines, from the first sign to the recovery."""
    source = draw.choice(sorted(_INCIDENTS))
    number = draw.randint(12, 28)
    name = f"INC-{draw.randint(1000, 9999)}"
    levels: list[LogLevel] = ["warning"] * (number // 4)
    levels += draw.choices(("error", "warning"), (2, 1), k=number - len(levels))
    if draw.random() < 0.3:
        levels[number // 2] = "critical"
    lines = [
        EntryCreate(
            level=level,
            source=source,
            message=draw.choice(_INCIDENTS[source]).format(n=draw.randint(5, 30)),
            fields={"incident": name, "attempt": index % 5 + 1},
        )
        for index, level in enumerate(levels)
    ]
    recovered = EntryCreate(source=source, message="recovered", fields={"after_s": number // 4})
    return source, [*lines, recovered]
