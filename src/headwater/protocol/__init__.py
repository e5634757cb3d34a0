"""The event-stream format, without I/O, clock or asyncio: bytes in, values out, and back."""

from headwater.protocol._decoder import MAX_EVENT_BYTES, Decoder, Message, decode_last_event_id
from headwater.protocol._encoder import HEARTBEAT, encode, frame, to_json
from headwater.protocol._events import MAX_RETRY, Comment, Event
from headwater.protocol._reconnect import Reconnect, Stop, Wait

__all__ = [
    "HEARTBEAT",
    "MAX_EVENT_BYTES",
    "MAX_RETRY",
    "Comment",
    "Decoder",
    "Event",
    "Message",
    "Reconnect",
    "Stop",
    "Wait",
    "decode_last_event_id",
    "encode",
    "frame",
    "to_json",
]
