"""An event log in Redis 7 or Valkey 8, and newer: a stream for each topic.

An append is one script: it stores the events, remembers the key and publishes to followers, or
does none of this. An offset is the stream's own id, ``1718000000000-0``.
"""

from headwater.eventlog.redis._log import RedisLog, open_redis

__all__ = ["RedisLog", "open_redis"]
