"""``headwater`` with its statements counted: each as the database itself traces it.

A datagram to the port in ``COUNT_PORT`` is answered with the counts by first word, as JSON, but
for what looks whether anything changed (``PRAGMA``).
"""

from __future__ import annotations

import collections
import json
import os
import socket
import sqlite3
import threading
from typing import Any

_counts: collections.Counter[str] = collections.Counter()
_connect = sqlite3.connect


def _traced(*given: Any, **named: Any) -> sqlite3.Connection:
    connection = _connect(*given, **named)
    connection.set_trace_callback(_count)
    return connection


def _count(statement: str) -> None:
    word = statement.lstrip().split(None, 1)[0].upper()
    # What a trigger does is traced as a comment.
    if not word.startswith("--"):
        _counts[word] += 1


def _answer() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as inbox:
        inbox.bind(("127.0.0.1", int(os.environ["COUNT_PORT"])))
        while True:
            _, sender = inbox.recvfrom(64)
            inbox.sendto(json.dumps(_counts).encode(), sender)


def main() -> None:
    sqlite3.connect = _traced  # type: ignore[assignment]
    if "COUNT_PORT" in os.environ:
        threading.Thread(target=_answer, daemon=True).start()
    from headwater.cli import main as headwater

    headwater()


if __name__ == "__main__":
    main()
