"""MCP's own server and client over the store; the connection is cut after each frame."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client, MCPError
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.streamable_http import EventMessage
from mcp.server.streamable_http import EventStore as SdkEventStore
from mcp.types import JSONRPCError, JSONRPCMessage, JSONRPCNotification

from headwater.adapters.mcp import EventStore, SessionScope
from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog import START, EventLog, MemoryLog, Record, Run, open_log
from support.cutting import Cutter
from support.server import serving
from support.until import until

STEPS = 4
# Priming event, progress, result.
FRAMES = 1 + STEPS + 1


class Cuts:
    """Ends a tool call's connections early.

    Attributes:
        by_name: by the tool's argument ``name``: after how many frames each connection ends.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, list[int]] = {}
        self._calls: dict[str, str] = {}

    def limit(self, scope: Any, body: bytes) -> int | None:
        headers = dict(scope["headers"])
        session = headers.get(b"mcp-session-id", b"").decode()
        if b'"tools/call"' in body:
            self._calls[session] = json.loads(body)["params"]["arguments"]["name"]
        elif b"last-event-id" not in headers:
            return None
        cuts = self.by_name.get(self._calls.get(session, ""))
        return cuts.pop(0) if cuts else None


def server() -> MCPServer:
    made = MCPServer("test")

    @made.tool()
    async def work(name: str, ctx: Context) -> str:
        for step in range(STEPS):
            await ctx.report_progress(step, STEPS, f"{name} {step}")
        return name

    @made.tool()
    async def slow(name: str, ctx: Context) -> str:
        await ctx.report_progress(0, 2, f"{name} began")
        await ctx.close_sse_stream()
        await asyncio.sleep(0.03)  # the client is away: that is what is tested
        await ctx.report_progress(1, 2, f"{name} ends")
        return name

    return made


@asynccontextmanager
async def running(
    store: SdkEventStore, *, scope: bool = False
) -> AsyncIterator[tuple[dict[str, list[int]], str]]:
    cuts = Cuts()
    app = server().streamable_http_app(event_store=store, retry_interval=10)
    if scope:
        app.add_middleware(SessionScope)
    # uvicorn logs each cut.
    async with serving(
        Cutter(app, cuts.limit), log_level="critical", timeout_graceful_shutdown=1
    ) as port:
        yield cuts.by_name, f"http://127.0.0.1:{port}/mcp"


async def call(url: str, name: str, tool: str = "work") -> tuple[str, list[str]]:
    """What one client gets of a tool: its result, and its messages of progress."""
    said: list[str] = []

    async def progress(_done: float, _total: float | None, message: str | None) -> None:
        said.append(message or "")

    async with Client(url, mode="legacy") as client:
        try:
            result = await client.call_tool(
                tool, {"name": name}, progress_callback=progress, read_timeout_seconds=20
            )
        except MCPError as error:
            return f"error: {error}", said
    return result.structured_content["result"], said


def expected(name: str) -> tuple[str, list[str]]:
    return name, [f"{name} {step}" for step in range(STEPS)]


# The store as it is, with the middleware, and in a wrapper of somebody's with the middleware.
WAYS = {
    "bare": lambda: running(EventStore(MemoryLog())),
    "scope": lambda: running(EventStore(MemoryLog()), scope=True),
    "wrapped": lambda: running(Hopping(EventStore(MemoryLog())), scope=True),
}
BOTH = ["bare", "scope", pytest.param("wrapped", marks=pytest.mark.long)]


@pytest.mark.parametrize("way", BOTH)
async def test_a_client_that_is_cut_after_any_frame_gets_each_message_once(way: str) -> None:
    """All sessions run at once, with the same stream ids: none sees a message of another."""
    async with WAYS[way]() as (cuts, url):
        for first in range(1, FRAMES + 1):
            cuts[f"once-{first}"] = [first]
            cuts[f"twice-{first}"] = [first, 1]
        names = list(cuts)
        results = await asyncio.gather(*(call(url, name) for name in names))
    for name, (text, said) in zip(names, results, strict=True):
        # Cut in a resumed connection, the client asks again from where that connection began.
        assert (text, list(dict.fromkeys(said))) == expected(name)
        if name.startswith("once"):
            assert len(said) == STEPS
    uncut = [name for name, left in cuts.items() if left]
    assert uncut == [f"twice-{FRAMES}"], "after the last frame nothing is asked for"


async def test_a_client_that_got_nothing_shows_an_error() -> None:
    async with running(EventStore(MemoryLog())) as (cuts, url):
        cuts["early"] = [0]
        assert await call(url, "early") == ("error: SSE stream ended without a response", [])


@pytest.mark.parametrize("way", WAYS)
async def test_a_tool_may_end_the_connection_and_the_client_polls(way: str) -> None:
    """SEP-1699: what is sent while the client is away comes with its next request."""
    async with WAYS[way]() as (_, url):
        names = [f"p{number}" for number in range(10)]
        results = await asyncio.gather(*(call(url, name, "slow") for name in names))
    assert results == [(name, [f"{name} began", f"{name} ends"]) for name in names]


HEADERS = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"}


async def open_session(http: httpx.AsyncClient, url: str) -> dict[str, str]:
    """The headers of a new session."""
    hello = {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    answer = await http.post(url, json=hello, headers=HEADERS)
    session = HEADERS | {"MCP-Session-Id": answer.headers["mcp-session-id"]}
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    await http.post(url, json=ready, headers=session)
    return session


@pytest.mark.parametrize("way", WAYS)
async def test_an_id_of_another_session_is_answered_with_nothing(way: str) -> None:
    """Ids may be seen in a log or guessed; a session is known by its own id alone."""
    async with WAYS[way]() as (_, url), httpx.AsyncClient() as http:
        alice, bob = [await open_session(http, url) for _ in range(2)]
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
        answers = {}
        for name, session in (("alice", alice), ("bob", bob)):
            params = {"name": "work", "arguments": {"name": name}}
            answers[name] = await http.post(url, json=request | {"params": params}, headers=session)
        ids = [line for line in answers["alice"].text.splitlines() if line.startswith("id: ")]
        assert len(ids) == 2, "the priming event and the result: no progress was asked for"
        for line in ids:
            stolen = bob | {"Last-Event-ID": line.removeprefix("id: ")}
            answer = await http.get(url, headers=stolen)
            assert answer.status_code == 200
            assert answer.text == ""
        own = alice | {"Last-Event-ID": ids[0].removeprefix("id: ")}
        async with http.stream("GET", url, headers=own) as resumed:
            lines = resumed.aiter_lines()
            replayed = [await anext(lines) for _ in range(3)]
    assert "\n".join(replayed) in answers["alice"].text.replace("\r", ""), "equal byte for byte"


class Hopping(SdkEventStore):
    """Somebody's wrapper that awaits the store in a task of its own."""

    def __init__(self, store: EventStore) -> None:
        self.store = store

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        return await asyncio.create_task(self.store.store_event(stream_id, message))

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str | None:
        replay = self.store.replay_events_after(last_event_id, send_callback)
        return await asyncio.create_task(replay)


async def test_a_store_that_cannot_tell_its_sessions_apart_resumes_none(caplog: Any) -> None:
    """Better no resumption than another user's messages."""
    store = Hopping(EventStore(MemoryLog()))
    async with running(store) as (_, url), httpx.AsyncClient() as http:
        sessions = [await open_session(http, url) for _ in range(2)]
        params = {"name": "work", "arguments": {"name": "alice"}}
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        answer = await http.post(url, json=request, headers=sessions[0])
        first = next(line for line in answer.text.splitlines() if line.startswith("id: "))
        for session in sessions:
            headers = session | {"Last-Event-ID": first.removeprefix("id: ")}
            assert (await http.get(url, headers=headers)).text == ""
    assert "cannot see which session calls it" in caplog.text


async def stored(store: EventStore, *texts: str | None, stream: str = "1") -> list[str]:
    return [await store.store_event(stream, text and note(text)) for text in texts]


def note(text: str) -> JSONRPCMessage:
    return JSONRPCNotification(jsonrpc="2.0", method="note", params={"text": text})


async def replayed(
    store: EventStore, event_id: str
) -> tuple[str | None, list[str | None], list[Any]]:
    """The stream, the ids and the texts that come after an id; an error's text for an error."""
    events: list[EventMessage] = []

    async def send(event: EventMessage) -> None:
        events.append(event)

    stream = await store.replay_events_after(event_id, send)
    texts = [
        one.message.error.message
        if isinstance(one.message, JSONRPCError)
        else one.message.params["text"]
        for one in events
    ]
    return stream, [one.event_id for one in events], texts


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an engine; a server is started only for the test that asks for it."""
    if request.param == "memory":
        return "memory://"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    server = request.getfixturevalue(request.param)
    return server.url(server.database()) if request.param == "postgres" else server.url


SERVERS = [pytest.param(name, marks=pytest.mark.long) for name in ("postgres", "valkey", "nats")]


@pytest.mark.parametrize("url", ["memory", "sqlite", *SERVERS], indirect=True)
async def test_every_engine_keeps_messages_of_any_size(url: str) -> None:
    """An image in a tool's result is larger than an event of the log may be."""
    async with open_log(url) as log:
        await keeps_messages_of_any_size(log)


async def test_a_log_of_small_events_keeps_messages_of_any_size() -> None:
    """A NATS server may take less than a megabyte."""
    await keeps_messages_of_any_size(MemoryLog(max_event_bytes=64_000))


async def keeps_messages_of_any_size(log: EventLog) -> None:
    store, other = EventStore(log), EventStore(log)
    large = "\N{WAVING HAND SIGN}\n" * 400_000
    primed, one, two = await stored(store, None, "one", large)
    (foreign,) = await stored(other, "other")
    await stored(store, "of another stream", stream="2")
    (three,) = await stored(store, "three")
    assert await replayed(store, primed) == ("1", [one, two, three], ["one", large, "three"])
    assert await replayed(store, two) == ("1", [three], ["three"])
    assert await replayed(store, three) == ("1", [], [])
    assert await replayed(store, foreign) == (None, [], [])
    for malformed in ("", "1", one + "x", one.upper(), "\N{WAVING HAND SIGN}"):
        assert await replayed(store, malformed) == (None, [], [])


async def test_a_session_goes_on_while_the_log_is_away() -> None:
    log = Away()
    store = EventStore(log, timeout=0.05)
    primed, _ = await stored(store, None, "before")
    log.away = True
    await stored(store, "while it is away")
    assert await replayed(store, primed) == (None, [], []), "the client tries again"
    log.away = False
    await until(lambda: complete(store, primed, ["before", "while it is away"]))


async def test_a_log_that_hangs_holds_a_message_for_a_bounded_time() -> None:
    log = Away()
    store = EventStore(log, timeout=0.05)
    log.hangs = True
    primed, *_ = await stored(store, None, *(str(n) for n in range(100)))
    log.hangs = False
    await until(lambda: complete(store, primed, [str(n) for n in range(100)]))


async def complete(store: EventStore, event_id: str, texts: list[str]) -> bool:
    stream, _, found = await replayed(store, event_id)
    return stream == "1" and found == texts


async def test_what_memory_cannot_hold_while_the_log_is_away_is_an_error_for_the_client() -> None:
    log = Away()
    store = EventStore(log, timeout=0.05)
    (primed,) = await stored(store, None)
    log.away = True
    await stored(store, *(str(n) for n in range(1_001)))
    log.away = False
    lost = ["some messages of this request are no longer kept; send it again"]
    await until(lambda: complete(store, primed, lost + [str(n) for n in range(1, 1_001)]))


async def test_a_session_keeps_its_newest_messages() -> None:
    """A stream of a day does not fill the log; who was away too long is told."""
    log = MemoryLog()
    store = EventStore(log, max_events=100)
    ids = await stored(store, *(str(n) for n in range(300)))
    stream, _, texts = await replayed(store, ids[0])
    assert stream == "1"
    assert texts[0] == "some messages of this request are no longer kept; send it again"
    assert texts[1:] == [str(n) for n in range(300 - len(texts) + 1, 300)]
    assert 100 <= len(texts) <= 120
    assert (await replayed(store, ids[-2]))[2] == ["299"]


async def test_server_messages_that_are_lost_are_left_out() -> None:
    """The stream of a session without a request has nobody to answer; its client goes on."""
    store = EventStore(MemoryLog(), max_events=100)
    first, *_ = await stored(store, *(str(n) for n in range(300)), stream="_GET_stream")
    stream, _, texts = await replayed(store, first)
    assert (stream, texts[-1]) == ("_GET_stream", "299")
    assert "some messages of this request are no longer kept; send it again" not in texts


async def test_what_comes_between_replay_and_live_is_sent_before_the_next_place() -> None:
    """The SDK registers a resumed stream after it stored a place. What comes by then is sent."""
    log = Away()
    store = EventStore(log)
    (primed,) = await stored(store, None)
    sent: list[str] = []

    async def send(event: EventMessage) -> None:
        sent.append(event.message.params["text"])

    assert await store.replay_events_after(primed, send) == "1"
    await stored(store, "between")
    (place,) = await stored(store, None)
    assert sent == ["between"]
    await stored(store, "live")
    assert (await replayed(store, place))[2] == ["live"]


async def test_sessions_that_have_ended_leave_nothing_in_the_log() -> None:
    """Also those of a process that was killed: any other one removes them."""
    log = MemoryLog()
    keep = timedelta(seconds=0.2)
    ids = [(await stored(EventStore(log, keep=keep), "one"))[0] for _ in range(5)]
    topics = [f"mcp:{event_id.partition('.')[0]}" for event_id in ids]
    alive = EventStore(log, keep=keep)
    first = (await stored(alive, "first"))[0]

    async def forgotten() -> bool:
        await stored(alive, "next")
        return all([(await log.bounds(topic)).latest == START for topic in topics])

    await until(forgotten, pause=0.05)
    assert (await log.bounds(f"mcp:{first.partition('.')[0]}")).latest > START
    assert len((await log.latest("mcp", 100)).records) < 10


async def test_clocks_that_differ_leave_no_session_behind() -> None:
    """The log forgets a session's name only with the session itself."""
    log = MemoryLog(clock=lambda: datetime.now(UTC) + timedelta(hours=1))
    store = EventStore(log, keep=timedelta(microseconds=10))
    for _ in range(3):
        await stored(store, "one")
        # As the end of a sweep can be seen by nothing that it leaves.
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
    assert (await log.bounds("mcp")).earliest == START


@pytest.mark.parametrize(
    "bad", [{"max_events": 99}, {"timeout": 0}, {"keep": timedelta(0)}], ids=str
)
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=str(*bad.values())):
        EventStore(MemoryLog(), **bad)


class Away(MemoryLog):
    """A log that can be away, or hang."""

    away = hangs = False

    async def append(self, *args: Any, **kwargs: Any) -> list[Record]:
        await self._check()
        return await super().append(*args, **kwargs)

    async def read(self, *args: Any, **kwargs: Any) -> Run:
        await self._check()
        return await super().read(*args, **kwargs)

    async def _check(self) -> None:
        if self.away:
            raise SourceUnavailableError("log", "away")
        if self.hangs:
            await asyncio.Event().wait()
