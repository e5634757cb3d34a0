"""Event logs: append-only, ordered stores of events by topic, on an engine of your choice."""

from headwater.eventlog.interface import EventLog, Follower
from headwater.eventlog.memory import MemoryLog
from headwater.eventlog.record import (
    START,
    Bounds,
    Capabilities,
    Offset,
    Record,
    Retention,
    Run,
)
from headwater.eventlog.topic import Topic
from headwater.eventlog.urls import open_log

__all__ = [
    "EventLog",
    "MemoryLog",
    "Topic",
    "open_log",
    "Follower",
    "Record",
    "Offset",
    "START",
    "Bounds",
    "Run",
    "Capabilities",
    "Retention",
]
