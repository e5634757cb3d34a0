"""The settings of a log's stream: those that it is created with, and those that it must keep."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from headwater.errors import UsageError
from headwater.eventlog.nats._connection import NAME

# Without one of these the log cannot read or append.
_NEEDED = ("allow_direct", "allow_atomic", "allow_msg_ttl", "allow_rollup_hdrs")


class ElsewhereError(UsageError):
    """The stream stores events where no reader looks for them."""


def new_settings(name: str, replicas: int, keys_kept: timedelta) -> dict[str, Any]:
    """The settings of a stream that is created."""
    return {
        "name": name,
        "subjects": _subjects(name),
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        # A stream with a limited size refuses events when it is full, and loses none.
        "discard": "new",
        "deny_delete": True,
        "duplicate_window": nanoseconds(keys_kept),
        **dict.fromkeys(_NEEDED, True),
        "republish": _republish(name),
        # A log that is created again begins above all sequences of the earlier one, unless that
        # stored more than a million events per second.
        "first_seq": int(time.time()) * 1_000_000,
    }


def check(name: str, config: Mapping[str, Any]) -> None:
    """Raise UsageError for settings, made or changed by hand, that would lose events."""
    if config.get("mirror") or config.get("sources"):
        raise UsageError(
            f"{NAME}: the stream {name} is a mirror or has sources, so only the server writes to "
            "it; give the name of the stream that it copies"
        )
    if config.get("subject_transform"):
        raise ElsewhereError(
            f"{NAME}: the stream {name} has a subject_transform, so it stores events at other "
            "subjects than the log reads; remove it"
        )
    taken, needed = set(config.get("subjects") or ()), _subjects(name)
    if not taken & {">", f"{name}.>"} and not taken.issuperset(needed):
        raise UsageError(f"{NAME}: give the stream {name} the subjects {', '.join(needed)}")
    if config["retention"] != "limits":
        raise UsageError(
            f"{NAME}: the stream {name} has retention {config['retention']}, with which the server "
            "removes events; set it to limits"
        )
    for setting in _NEEDED:
        if not config.get(setting):
            raise UsageError(f"{NAME}: set {setting} on the stream {name}")
    republish, wanted = config.get("republish") or {}, _republish(name)
    if {**republish, **wanted} != republish or republish.get("headers_only"):
        raise UsageError(
            f"{NAME}: let the stream {name} republish {wanted['src']} to {wanted['dest']}; without "
            "it followers get events seconds late"
        )
    bounded = any(config.get(limit, -1) > 0 for limit in ("max_msgs", "max_bytes"))
    per_topic = config.get("max_msgs_per_subject", -1) > 0
    if config.get("max_age", 0) or per_topic or (bounded and config["discard"] != "new"):
        raise UsageError(
            f"{NAME}: the stream {name} removes events by itself, and followers would not notice; "
            "remove max_age and max_msgs_per_subject, and set discard to new"
        )


def nanoseconds(length: timedelta) -> int:
    """The unit of JetStream's settings."""
    return length // timedelta(microseconds=1) * 1000


def _subjects(name: str) -> list[str]:
    return [f"{name}.{kind}" for kind in ("t.*", "s.*", "k.*", "epoch")]


def _republish(name: str) -> dict[str, str]:
    return {"src": f"{name}.t.*", "dest": f"{name}.n.{{{{wildcard(1)}}}}"}
