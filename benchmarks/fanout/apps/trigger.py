"""What the Python peers have in common: a queue for each stream, and the datagram that fills them.

``EV first_group groups first_seq count`` gives each of the groups that many events, as for the
baseline. An event is made once, as one would in an application, and put into each queue.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import defaultdict
from typing import Any

DATA = 200


def payload(seq: int) -> dict[str, Any]:
    """200 bytes, as JSON without spaces."""
    bare = {"seq": seq, "pad": ""}
    bare["pad"] = "x" * (DATA - len(json.dumps(bare, separators=(",", ":"))))
    return bare


class Rooms(asyncio.DatagramProtocol):
    """The queues of all open streams by group."""

    def __init__(self) -> None:
        self.queues: defaultdict[int, set[asyncio.Queue[Any]]] = defaultdict(set)

    def make(self, seq: int) -> Any:
        """What is put into the queues."""
        return seq, payload(seq)

    def join(self, group: int) -> asyncio.Queue[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self.queues[group].add(queue)
        return queue

    def leave(self, group: int, queue: asyncio.Queue[Any]) -> None:
        self.queues[group].discard(queue)

    def datagram_received(self, data: bytes, _address: Any) -> None:
        from_group, groups, first, count = map(int, data.split()[1:5])
        for group in range(from_group, from_group + groups):
            for seq in range(first, first + count):
                item = self.make(seq)
                for queue in self.queues[group]:
                    queue.put_nowait(item)

    async def listen(self) -> None:
        """Take datagrams at the port of HTTP."""
        await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: self, ("127.0.0.1", int(os.environ["PORT"]))
        )
