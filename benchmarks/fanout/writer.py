"""Commits rows with plain SQL, as another program would: ``python -m benchmarks.fanout.writer``.

Takes the datagram of the peers, ``EV first_group groups first_seq count``, and writes what it asks
for in one transaction. What it uses is not counted as the server's.
"""

from __future__ import annotations

import socket
import sqlite3
import sys

from benchmarks.fanout.rows import message

INSERT = "INSERT INTO log_entries (user_id, message) VALUES (?, ?)"


def main() -> None:
    path, port = sys.argv[1:]
    database = sqlite3.connect(path, timeout=30, isolation_level=None)
    database.execute("PRAGMA synchronous = NORMAL")
    with socket.socket(type=socket.SOCK_DGRAM) as inbox:
        inbox.bind(("127.0.0.1", int(port)))
        while True:
            group, groups, first, count = map(int, inbox.recv(256).split()[1:])
            database.execute("BEGIN IMMEDIATE")
            database.executemany(
                INSERT,
                (
                    (f"u{user}", message(seq))
                    for seq in range(first, first + count)
                    for user in range(group, group + groups)
                ),
            )
            database.execute("COMMIT")


if __name__ == "__main__":
    main()
