"""Log lines of the demo's services."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from headwater.backend.logs.schemas import EntryCreate

__all__ = ["incident", "line"]

Draw = random.Random


@dataclass(frozen=True, slots=True)
class _Template:
    """``message`` is filled in from the fields."""

    weight: float
    level: str
    source: str
    message: str
    fields: dict[str, Callable[[Draw], Any]] = field(default_factory=dict)


def _int(low: int, high: int) -> Callable[[Draw], int]:
    return lambda draw: draw.randint(low, high)


def _of(*values: Any) -> Callable[[Draw], Any]:
    return lambda draw: draw.choice(values)


def _hex(digits: int) -> Callable[[Draw], str]:
    return lambda draw: f"{draw.getrandbits(digits * 4):0{digits}x}"


_TOOLS = _of("search_docs", "read_file", "run_query", "create_issue", "list_tables", "fetch_page")
_PATHS = _of("/v1/tools", "/v1/sessions", "/v1/complete", "/v1/files", "/health")
_USER = _hex(6)

_TEMPLATES = (
    _Template(
        16,
        "info",
        "gateway",
        "{method} {path} {status} in {ms} ms",
        {
            "method": _of("GET", "GET", "POST"),
            "path": _PATHS,
            "status": _of(200, 200, 200, 201, 204, 304),
            "ms": _int(3, 180),
        },
    ),
    _Template(
        12,
        "info",
        "mcp-router",
        "tool {tool} answered in {ms} ms",
        {"tool": _TOOLS, "ms": _int(20, 900), "session": _hex(8)},
    ),
    _Template(
        6,
        "info",
        "auth",
        "user {user} signed in",
        {"user": _USER, "by": _of("password", "key")},
    ),
    _Template(
        6,
        "info",
        "worker",
        "job {job} done after {ms} ms",
        {"job": _hex(6), "ms": _int(80, 4000), "queue": _of("default", "mail", "index")},
    ),
    _Template(
        4, "info", "scheduler", "started {task}", {"task": _of("nightly-report", "reindex", "sync")}
    ),
    _Template(
        9,
        "debug",
        "cache",
        "{outcome} for {key}",
        {"outcome": _of("hit", "hit", "miss"), "key": lambda draw: f"doc:{draw.randint(1, 9999)}"},
    ),
    _Template(
        7,
        "debug",
        "database",
        "{rows} rows in {ms} ms",
        {"rows": _int(0, 500), "ms": _int(1, 40), "pool": _int(1, 8)},
    ),
    _Template(
        5,
        "warning",
        "gateway",
        "slow answer: {path} took {ms} ms",
        {"path": _PATHS, "ms": _int(1200, 5200)},
    ),
    _Template(
        4,
        "warning",
        "mcp-router",
        "session {session} sends more than {limit} calls a minute",
        {"session": _hex(8), "limit": _of(60, 120)},
    ),
    _Template(
        2, "warning", "auth", "wrong password for user {user}", {"user": _USER, "try": _int(1, 4)}
    ),
    _Template(
        3,
        "error",
        "mcp-router",
        "tool {tool} failed: {reason}",
        {"tool": _TOOLS, "reason": _of("time-out after 30 s", "bad gateway", "invalid JSON")},
    ),
    _Template(
        2,
        "error",
        "worker",
        "job {job} failed, trying again in {wait} s",
        {"job": _hex(6), "wait": _of(5, 15, 60), "attempt": _int(1, 4)},
    ),
    _Template(0.3, "critical", "database", "replica is {lag} s behind", {"lag": _int(30, 400)}),
)
_WEIGHTS = [template.weight for template in _TEMPLATES]

_INCIDENTS = {
    "database": ("connection pool exhausted", "query cancelled after {n} s", "waiting for a lock"),
    "gateway": ("upstream timed out after {n} s", "502 from upstream", "circuit opened"),
    "mcp-router": ("session dropped after {n} s", "tool server does not answer", "queue is full"),
}


def line(draw: Draw) -> EntryCreate:
    """One ordinary line."""
    template = draw.choices(_TEMPLATES, _WEIGHTS)[0]
    fields = {name: make(draw) for name, make in template.fields.items()}
    return EntryCreate.model_validate(
        {
            "level": template.level,
            "source": template.source,
            "message": template.message.format(**fields),
            "fields": fields,
        }
    )


def incident(draw: Draw) -> tuple[str, list[EntryCreate]]:
    """A source in trouble, and its lines, from the first sign to the recovery."""
    source = draw.choice(sorted(_INCIDENTS))
    number = draw.randint(12, 28)
    name = f"INC-{draw.randint(1000, 9999)}"
    lines = []
    for index in range(number):
        level = "warning" if index < number // 4 else draw.choice(("error", "error", "warning"))
        if index == number // 2 and draw.random() < 0.3:
            level = "critical"
        message = draw.choice(_INCIDENTS[source]).format(n=draw.randint(5, 30))
        fields = {"incident": name, "attempt": index % 5 + 1}
        lines.append((level, message, fields))
    lines.append(("info", "recovered", {"after_s": number // 4}))
    return source, [
        EntryCreate.model_validate(
            {"level": level, "source": source, "message": message, "fields": fields}
        )
        for level, message, fields in lines
    ]
