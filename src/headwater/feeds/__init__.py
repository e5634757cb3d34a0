"""Feeds: positions, sources and how their items become bytes. No I/O but that of the sources."""

from headwater.feeds._feed import Feed
from headwater.feeds._poll import Poll
from headwater.feeds._position import Position
from headwater.feeds._source import Change, Filter, Origin, Page, Place, Sink, Source, Window

__all__ = [
    "Change",
    "Feed",
    "Filter",
    "Origin",
    "Page",
    "Place",
    "Poll",
    "Position",
    "Sink",
    "Source",
    "Window",
]
