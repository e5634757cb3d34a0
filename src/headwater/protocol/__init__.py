"""The event-stream format, without I/O, clock or asyncio: bytes in, values out, and back."""

from headwater.protocol.encoder import HEARTBEAT, encode, frame
from headwater.protocol.events import Comment, Event
from headwater.protocol.serializer import to_json

__all__ = ["HEARTBEAT", "Comment", "Event", "encode", "frame", "to_json"]
