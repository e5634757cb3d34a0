"""What the drivers of Redis and NATS append by themselves, for comparison.

One stream for each topic in Valkey (``XADD``), one JetStream stream with a subject for each topic
in NATS: the payloads of events, without keys, numbers, pushes or the atomicity of a batch.
"""

from __future__ import annotations

import asyncio
import json
from argparse import Namespace
from typing import Any

import nats
from redis.asyncio import Redis

Figures = list[float | None]


def _text(event: dict[str, Any]) -> str:
    return json.dumps(event, separators=(",", ":"))


async def plain_redis(url: str, args: Namespace, data: list[dict[str, Any]], rate: Any) -> Figures:
    """redis-py: a command for each event, a connection for each appender; batches in MULTI."""
    async with Redis.from_url(url, max_connections=args.appenders) as client:

        async def one(call: int) -> int:
            event = {"d": _text(data[call % len(data)])}
            await client.xadd(f"plain:{call % args.topics}", event)
            return 1

        async def batch(call: int) -> int:
            start = call * args.batch % (len(data) - args.batch + 1)
            async with client.pipeline(transaction=True) as pipeline:
                for event in data[start : start + args.batch]:
                    pipeline.xadd(f"plain:{call % args.topics}", {"d": _text(event)})
                await pipeline.execute()
            return int(args.batch)

        return [
            await rate(one, args.seconds),
            await rate(one, args.seconds, args.appenders),
            await rate(batch, args.seconds),
        ]


async def plain_nats(url: str, args: Namespace, data: list[dict[str, Any]], rate: Any) -> Figures:
    """nats-py: an acknowledged publish for each event; a batch is as many at once."""
    client = await nats.connect(url)
    try:
        stream = client.jetstream()
        await stream.add_stream(name="plain", subjects=["plain.*"])

        async def put(topic: int, event: dict[str, Any]) -> None:
            await stream.publish(f"plain.{topic}", _text(event).encode())

        async def one(call: int) -> int:
            await put(call % args.topics, data[call % len(data)])
            return 1

        async def batch(call: int) -> int:
            start = call * args.batch % (len(data) - args.batch + 1)
            events = data[start : start + args.batch]
            await asyncio.gather(*(put(call % args.topics, event) for event in events))
            return int(args.batch)

        return [
            await rate(one, args.seconds),
            await rate(one, args.seconds, args.appenders),
            await rate(batch, args.seconds),
        ]
    finally:
        await client.close()
