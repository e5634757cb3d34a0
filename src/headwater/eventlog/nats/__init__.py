"""An event log in NATS 2.12 or newer: one JetStream stream for all topics.

The server stores a batch and the memory of its key as a whole, or not at all. An offset is the
stream's own sequence, so that offsets of one topic rise with gaps.
"""

from headwater.eventlog.nats._log import NatsLog, open_nats

__all__ = ["NatsLog", "open_nats"]
