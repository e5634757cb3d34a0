"""Commits rows with plain SQL, as another program would: ``python -m benchmarks.fanout.writer``.

Takes the datagram of the peers, ``EV first_group groups first_seq count``, and writes what it asks
for in one transaction, into log entries of its users or notifications of their team. What it uses
is not counted as the server's.
"""

from __future__ import annotations

import socket
import sqlite3
import sys
from collections.abc import Iterator

from benchmarks.fanout.rows import TEAM, message, title

INSERT = {
    "log_entries": "INSERT INTO log_entries (user_id, message) VALUES (?, ?)",
    "notifications": "INSERT INTO notifications (team_id, title) VALUES (?, ?)",
}


def rows(table: str, users: range, seqs: range) -> Iterator[tuple[str, str]]:
    """A row for each user and number, or one for the team that all of them are in."""
    for seq in seqs:
        if table == "notifications":
            yield TEAM, title(seq)
        else:
            for user in users:
                yield f"u{user}", message(seq)


def main() -> None:
    path, port, table = sys.argv[1:]
    database = sqlite3.connect(path, timeout=30, isolation_level=None)
    database.execute("PRAGMA synchronous = NORMAL")
    with socket.socket(type=socket.SOCK_DGRAM) as inbox:
        inbox.bind(("127.0.0.1", int(port)))
        while True:
            group, groups, first, count = map(int, inbox.recv(256).split()[1:])
            database.execute("BEGIN IMMEDIATE")
            database.executemany(
                INSERT[table],
                rows(table, range(group, group + groups), range(first, first + count)),
            )
            database.execute("COMMIT")


if __name__ == "__main__":
    main()
