"""Headwater: feeds over REST and Server-Sent Events that never lose or repeat an item.

Importing it brings no framework and no driver. ``headwater.web.fastapi`` has ``LiveRouter``,
``headwater.sql`` has ``Table``, ``headwater.eventlog`` has logs and topics.
"""

from headwater.delivery._event_stream import EventStream
from headwater.delivery._hub import Hub
from headwater.errors import HeadwaterError
from headwater.feeds import Poll, Position, Source
from headwater.protocol import Comment, Decoder, Event
from headwater.web.asgi import SSE

__version__ = "0.1.0"

__all__ = [
    "SSE",
    "Comment",
    "Decoder",
    "Event",
    "EventStream",
    "HeadwaterError",
    "Hub",
    "Poll",
    "Position",
    "Source",
    "__version__",
]
