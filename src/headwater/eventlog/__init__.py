"""Event logs: append-only, ordered stores of events by topic, on an engine of your choice."""

from headwater.eventlog._interface import EventLog, Follower, Topic
from headwater.eventlog._keyed import KeyedTopic
from headwater.eventlog._memory import MemoryLog
from headwater.eventlog._record import (
    START,
    Bounds,
    Capabilities,
    Offset,
    Record,
    Retention,
    Run,
    foreign_entries,
)
from headwater.eventlog._urls import open_log

__all__ = [
    "EventLog",
    "MemoryLog",
    "Topic",
    "KeyedTopic",
    "open_log",
    "foreign_entries",
    "Follower",
    "Record",
    "Offset",
    "START",
    "Bounds",
    "Run",
    "Capabilities",
    "Retention",
]
