"""Another program writes with plain SQL and no library; the streams tell it at once.

Only the documented columns are used. ``benchmarks/plain_sql_latency.py`` measures more of the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from running import Running

from support.http import Answer, request

pytestmark = pytest.mark.long

# Only a guard: what it takes is printed, and measured by the benchmark.
AT_MOST = 5.0

PROGRAM = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=5)
with database:
    for statement in sys.argv[2:]:
        database.execute(statement)
database.close()
"""


async def execute(database: Path, *statements: str) -> None:
    """Run statements in one transaction of another process."""
    arguments = [sys.executable, "-c", PROGRAM, str(database), *statements]
    await asyncio.to_thread(subprocess.run, arguments, check=True)


async def told(answer: Answer) -> tuple[str, Any]:
    message = await answer.next()
    return message.event, json.loads(message.data)


async def test_log_entries_reach_the_streams_within_moments(shared: Running):
    """The time from the commit until the last of ten streams has the row."""
    latencies = []
    streams = [request(shared.port, "/api/logs/stream", headers=shared.headers) for _ in "0" * 10]
    answers = [await stream.__aenter__() for stream in streams]
    try:
        for answer in answers:
            assert (await told(answer))[0] == "snapshot"
        for number in range(30):
            await asyncio.to_thread(shared.insert, f"row {number}")
            began = time.monotonic()
            for answer in answers:
                event, item = await told(answer)
                assert (event, item["message"], item["level"]) == ("log", f"row {number}", "info")
            latencies.append(time.monotonic() - began)
    finally:
        for stream in streams:
            await stream.__aexit__(None, None, None)
    print(f"\nmedian {statistics.median(latencies) * 1000:.0f} ms, most {max(latencies):.3f} s")
    assert max(latencies) < AT_MOST


async def test_what_is_rolled_back_or_only_updated_is_told_to_nobody(shared: Running):
    async with request(shared.port, "/api/logs/stream", headers=shared.headers) as answer:
        await told(answer)
        with sqlite3.connect(shared.database, timeout=5) as database:
            insert = "INSERT INTO log_entries (user_id, message) VALUES (?, ?)"
            database.execute(insert, (shared.user_id, "undone"))
            database.rollback()
            database.execute(insert, (shared.user_id, "first"))
            database.commit()
            database.execute("UPDATE log_entries SET message = 'changed' WHERE message = 'first'")
            database.commit()
            database.execute(insert, (shared.user_id, "second"))
        database.close()
        # The update may come before or after the tail has read the first; it is told once.
        messages = [(await told(answer))[1]["message"] for _ in range(2)]
        assert messages[0] in ("first", "changed")
        assert messages[1] == "second"


async def test_notifications_of_a_user_and_of_a_team(shared: Running):
    mine = "/api/notifications/stream"
    teams = f"/api/teams/{shared.team_id}/notifications/stream"
    async with (
        request(shared.port, mine, headers=shared.headers) as me,
        request(shared.port, teams, headers=shared.headers) as team,
    ):
        assert {(await told(me))[0], (await told(team))[0]} == {"snapshot"}
        await execute(
            shared.database,
            "INSERT INTO notifications (team_id, title) "
            "SELECT id, 'to the team' FROM teams WHERE name = 'River crossing'",
            "INSERT INTO notifications (user_id, level, title, body) "
            f"SELECT id, 'success', 'to me', '' FROM users WHERE email = '{shared.email}'",
        )
        assert [(await told(me))[1]["title"] for _ in range(2)] == ["to the team", "to me"]
        assert (await told(team))[1]["title"] == "to the team"


async def test_client_activity_that_is_counted_and_removed(shared: Running):
    count = f"""
        INSERT INTO client_activity
            (user_id, team_id, satellite_id, satellite_name, client_name, requests)
        SELECT users.id, teams.id, satellites.id, satellites.name, 'editor', 1
        FROM users, teams, satellites WHERE users.email = '{shared.email}'
        ON CONFLICT (user_id, team_id, satellite_id, client_name) DO UPDATE SET
            requests = requests + 1, last_activity_at = strftime('%Y-%m-%d %H:%M:%f', 'now')"""
    path = f"/api/users/me/mcp/client-activity/stream?team_id={shared.team_id}"
    async with request(shared.port, path, headers=shared.headers) as answer:
        assert (await told(answer))[1]["activities"] == []
        for requests in (1, 2):
            await execute(shared.database, count)
            event, item = await told(answer)
            assert (event, item["requests"]) == ("client_activity", requests)
            assert (item["client_name"], item["satellite_name"]) == ("editor", "spring-01")
        await execute(shared.database, "DELETE FROM client_activity")
        assert await told(answer) == ("client_activity_removed", {"id": item["id"]})
        await execute(shared.database, count)
        # Old when it comes: outside the feed's window, so that it is told as gone.
        await told(answer)
        await execute(
            shared.database,
            "UPDATE client_activity SET last_activity_at = '2020-01-01 00:00:00.000'",
        )
        assert (await told(answer))[0] == "client_activity_removed"
    assert shared.complaints() == []


def test_a_row_that_nobody_could_show_is_refused(seeded: Path, tmp_path: Path):
    """Otherwise one bad row of another program would end every stream."""
    server = Running(seeded, tmp_path)
    rows = [
        (None, "info", "x"),
        (server.user_id, "nope", "x"),
        (server.user_id, "info", None),
        (server.user_id, "info", b"\x00\xff"),
    ]
    insert = "INSERT INTO log_entries (user_id, level, message) VALUES (?, ?, ?)"
    with contextlib.closing(server), contextlib.closing(sqlite3.connect(server.database)) as file:
        for row in rows:
            with pytest.raises(sqlite3.IntegrityError):
                file.execute(insert, row)
