"""What a client may send, and how slowly: one that does not keep to it costs the others nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.until import until
from support.uvicorn_rig import App, rigged

HEAD = 65_536


def head(size: int, lines: int = 1) -> bytes:
    """A request whose target and header lines have exactly this size together."""
    each = (size - len("/x") - len("host: x\r\n")) // lines
    first = b"GET /x HTTP/1.1\r\nhost: x\r\n"
    sizes = [each] * (lines - 1) + [size - len("/x") - len("host: x\r\n") - each * (lines - 1)]
    return first + b"".join(b"a: %b\r\n" % (b"v" * (n - 5)) for n in sizes) + b"\r\n"


@pytest.mark.parametrize(("size", "status"), [(HEAD, 200), (HEAD + 1, 431)])
@pytest.mark.parametrize("lines", [1, 50])
async def test_a_head_of_64_kilobytes_and_no_more(size, status, lines):
    async with rigged() as rig, rig.client() as client:
        client.send(head(size, lines))
        found, headers, body = await client.answer()
        assert found == status
        if status == 431:
            assert headers["content-type"] == "application/problem+json"
            assert "65536 bytes" in json.loads(body)["detail"]
            assert await client.ended() == b""
            assert rig.app.began == []


@pytest.mark.parametrize(("lines", "status"), [(100, 200), (101, 431)])
async def test_a_hundred_header_lines_and_no_more(lines, status):
    async with rigged() as rig, rig.client() as client:
        client.send(b"GET /x HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * (lines - 1) + b"\r\n")
        assert (await client.answer())[0] == status


@pytest.mark.parametrize("part", [b"GET /", b"GET / HTTP/1.1\r\na: ", b"\r\n\r\n"])
async def test_a_part_of_a_head_that_never_ends_is_not_kept(part):
    """Half a line is in the parser's memory, not ours: it is counted all the same."""
    async with rigged() as rig, rig.client() as client:
        client.send(part)

        async def flood():
            try:
                for _ in range(400):
                    client.send((b"\r\n" if part == b"\r\n\r\n" else b"aa") * 32_768)
                    await client.writer.drain()
            except ConnectionError:
                pass

        task = asyncio.create_task(flood())
        assert (await client.answer())[0] == 431
        await task
        assert rig.refused("head_size") == 1


@pytest.mark.parametrize(
    ("before", "piece"),
    [
        (b"", b"1;" + b"e" * 1000 + b"\r\nx\r\n"),
        (b"0\r\n", b"a: b\r\n" * 100),
        (b"0\r\na: ", b"v" * 1000),
    ],
    ids=["extensions", "trailers", "half a trailer"],
)
async def test_what_comes_with_chunks_is_bounded_too(before, piece):
    async with rigged() as rig, rig.client() as client:
        client.send(b"POST /read HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        client.send(before)
        for _ in range(400):
            client.send(piece)
        assert (await client.answer())[0] in (400, 431)
        await until(lambda: rig.app.gone == 1)


async def test_a_head_that_comes_too_slowly():
    async with rigged(limits={"head_seconds": 0.3}) as rig, rig.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost")
        status, headers, body = await client.answer()
        assert (status, headers["connection"]) == (408, "close")
        assert "0.3 s" in json.loads(body)["detail"]
        assert await client.ended() == b""
        assert rig.refused("head_time") == 1


async def test_each_byte_in_time_does_not_make_a_head_in_time():
    async with rigged(limits={"head_seconds": 0.3}) as rig, rig.client() as client:
        client.send(b"GET /x HTTP/1.1\r\n")

        async def trickle():
            while True:
                client.send(b"a: b\r\n")
                await asyncio.sleep(0.05)  # the pace of the trickle

        task = asyncio.create_task(trickle())
        assert (await client.answer())[0] == 408
        task.cancel()
        assert rig.app.began == []


async def test_a_silent_connection_is_closed():
    async with rigged(limits={"head_seconds": 0.2}) as rig, rig.client() as client:
        assert await client.ended() == b""
        assert rig.refused("head_time") == 1


async def test_a_second_head_has_its_own_time():
    """A connection that is kept open is idle for longer than a head may take."""
    async with (
        rigged(limits={"head_seconds": 0.3}, timeout_keep_alive=30) as rig,
        rig.client() as client,
        rig.client() as silent,
    ):
        client.get("/one")
        assert (await client.answer())[2] == b"/one"
        assert await silent.ended() == b""
        client.get("/two")
        assert (await client.answer())[2] == b"/two"
        client.send(b"GET /three")
        assert (await client.answer())[0] == 408


async def test_an_idle_connection_is_closed_after_the_servers_time():
    async with rigged(timeout_keep_alive=0.2) as rig, rig.client() as client:
        client.get("/one")
        await client.answer()
        assert await client.ended() == b""
        assert sum(rig.counters.by_reason.values()) == 0


POST = b"POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"


async def test_a_body_that_comes_too_slowly():
    async with rigged(limits={"body_seconds": 0.3}) as rig, rig.client() as client:
        client.send(POST % 1000 + b"x")
        assert (await client.answer())[0] == 408
        assert await client.ended() == b""
        await until(lambda: rig.app.gone == 1)
        assert rig.refused("body_time") == 1


async def test_a_large_body_has_as_long_as_its_rate_allows():
    limits = {"body_seconds": 0.2, "body_rate": 1000}
    async with rigged(limits=limits) as rig, rig.client() as client:
        client.send(POST % 2000)
        for _ in range(5):
            client.send(b"x" * 400)
            await asyncio.sleep(0.1)  # the pace of a slow writer
        assert (await client.answer())[0] == 200
        assert rig.app.bodies == [b"x" * 2000]


async def test_a_client_is_not_blamed_for_an_application_that_reads_late():
    reads = asyncio.Event()

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        await reads.wait()
        size = 0
        while (message := await receive())["more_body"]:
            size += len(message["body"])
        size += len(message["body"])
        body = b"%d" % size
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    limits = {"body_seconds": 0.2, "head_seconds": 0.2, "body_rate": 10**9}
    async with rigged(app, limits=limits) as rig, rig.client() as client, rig.client() as silent:
        client.send(POST % 1_000_000 + b"x" * 600_000)
        assert await silent.ended() == b""  # so much time is over
        reads.set()
        client.send(b"x" * 400_000)
        assert (await client.answer())[2] == b"1000000"


async def test_a_body_after_the_answer_is_dropped_but_not_for_ever():
    async with rigged() as rig, rig.client() as client:
        client.send(POST.replace(b"/read", b"/x") % 100_000)
        assert (await client.answer())[2] == b"/x"
        client.send(b"x" * 100_000)
        client.get("/next")
        assert (await client.answer())[2] == b"/next"
        client.send(POST.replace(b"/read", b"/x") % 10**9)
        assert (await client.answer())[2] == b"/x"
        client.send(b"x" * 5_000_000)
        assert await client.ended() == b""


async def test_continue_is_said_when_the_application_reads():
    async with rigged() as rig, rig.client() as client:
        client.send((POST % 3).replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n"))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"abc")
        assert (await client.answer())[0] == 200
        assert rig.app.bodies == [b"abc"]


async def test_what_is_no_http_is_answered_400_and_logged_once_a_minute(caplog):
    caplog.set_level(logging.WARNING, "headwater.web")
    async with rigged() as rig:
        for _ in range(5):
            async with rig.client() as client:
                client.send(b"\x16\x03\x01 hello\r\n\r\n")
                assert (await client.answer())[0] == 400
                assert await client.ended() == b""
    lines = [record.message for record in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith("connections refused or closed: 1 that sent no valid HTTP request")


GET, PUT = b"GET /x HTTP/1.1\r\n", b"PUT /x HTTP/1.1\r\nhost: x\r\n"


HEADS = [
    # RFC 9112, 3.2: one Host line, with a valid value; HTTP/1.0 may have none.
    (GET, 400),
    (GET + b"host: x\r\nhost: x\r\n", 400),
    (GET + b"host: a b\r\n", 400),
    (GET + b"host: u@x\r\n", 400),
    (GET + b"host:\r\n", 200),
    (GET + b"host: [::1]:80\r\n", 200),
    (b"GET /x HTTP/1.0\r\n", 200),
    (b"GET /x HTTP/1.0\r\nhost: x\r\nhost: y\r\n", 400),
    # 3.2.2
    (b"GET http://y/x HTTP/1.1\r\n", 400),
    # 2.3, and RFC 9110, 15.6.6
    (b"GET /x HTTP/2.0\r\nhost: x\r\n", 505),
    (b"GET /x\r\n", 505),
    # 3.1: methods have a case.
    (b"get /x HTTP/1.1\r\nhost: x\r\n", 400),
    # 5.1 and 5.2
    (GET + b"host: x\r\na : b\r\n", 400),
    (GET + b"host: x\r\na: b\r\n c\r\n", 400),
    (GET + b"host: x\na: b\r\n", 400),
    (GET + b"host: x\r\n" + b"a: b\r\n" * 100, 431),
    # 6.1 to 6.3
    (PUT + b"content-length: 1\r\ntransfer-encoding: chunked\r\n", 400),
    (PUT + b"content-length: 1\r\ncontent-length: 2\r\n", 400),
    (PUT + b"transfer-encoding: gzip\r\n", 400),
    (PUT + b"transfer-encoding: chunked, gzip\r\n", 400),
    (PUT + b"transfer-encoding: gzip, chunked\r\n", 501),
    (PUT + b"transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n", 501),
]


async def test_a_head_that_the_standard_refuses_is_answered_and_the_connection_closed():
    """A proxy in front may read such a head in another way, and so another request after it."""
    async with rigged() as rig:
        for head, expected in HEADS:
            rig.app.began.clear()
            async with rig.client() as client:
                client.send(head + b"\r\n")
                if expected != 200:
                    client.get("/y")
                status, headers, _ = await client.answer()
                assert (status, rig.app.began) == (expected, ["/x"] * (status == 200)), head
                if status != 200:
                    assert headers["connection"] == "close"
                    assert await client.ended() == b""


async def test_a_refused_head_waits_for_the_answer_before_it():
    async with rigged() as rig, rig.client() as client:
        client.send(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n" + GET + b"\r\n")
        await until(lambda: rig.refused("malformed"))
        rig.app.go_on.set()
        assert (await client.answer())[2] == b"/wait"
        assert (await client.answer())[0] == 400


@pytest.mark.parametrize("target", ["http://y:80/x?q=1", "http://y:80?q=1"])
async def test_the_host_of_a_whole_uri_counts(target):
    """RFC 9112, 3.2.2: whatever the header says."""
    scopes = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            scopes.append(scope)
            await App()(scope, receive, send)

    async with rigged(app) as rig, rig.client() as client:
        client.get(target)
        assert (await client.answer())[0] == 200
    (scope,) = scopes
    assert scope["headers"] == [(b"host", b"y:80")]
    assert scope["path"] == ("/x" if "/x" in target else "/")
    assert scope["query_string"] == b"q=1"


async def test_an_unknown_upgrade_is_ignored():
    async with rigged(ws="none") as rig, rig.client() as client:
        client.get("/x", "Connection: Upgrade", "Upgrade: h2c")
        assert (await client.answer())[2] == b"/x"
        client.get("/y")
        assert (await client.answer())[2] == b"/y"


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
async def test_the_body_beside_an_upgrade_is_no_request(step: int, upgrade: str):
    """Java's HttpClient offers h2c with each POST. And a proxy that passes the header on has sent
    one request: a second answer would reach another client."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    start = f"POST /read HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n"
    for framed in (
        b"Content-Length: %d\r\n\r\n%b" % (len(smuggled), smuggled),
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(smuggled), smuggled),
    ):
        async with rigged(ws=Socket) as rig, rig.client() as client:
            data = start.encode() + framed + b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
            for at in range(0, len(data), step):
                client.send(data[at : at + step])
                await asyncio.sleep(0)
            assert (await client.answer())[0] == 200
            assert (await client.answer())[2] == b"/next"
            assert rig.app.bodies == [smuggled]
            assert rig.app.began == ["/read", "/next"]


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["get", "length", "chunks"]),
        st.binary(max_size=3000),
    ),
    min_size=1,
    max_size=6,
)


def encoded(number: int, kind: str, body: bytes) -> bytes:
    path = b"/read/%d" % number
    if kind == "get":
        return b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path
    if kind == "length":
        return b"PUT %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (
            path,
            len(body),
            body,
        )
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in (body[:7], body[7:]) if c)
    return b"PUT %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n%b0\r\n\r\n" % (
        path,
        chunks,
    )


@settings(max_examples=15, deadline=None)
@given(requests=REQUESTS, cuts=st.lists(st.integers(0, 20_000), max_size=8))
def test_however_the_bytes_are_cut_the_requests_are_the_same(requests, cuts):
    """Also when all of them are sent ahead."""

    async def echo(scope, receive, send):
        if scope["type"] != "http":
            return
        body = b""
        while (message := await receive())["more_body"]:
            body += message["body"]
        body = scope["path"].encode() + b" " + body + message["body"]
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def run():
        data = b"".join(encoded(n, *each) for n, each in enumerate(requests))
        places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        async with rigged(echo) as rig, rig.client() as client:
            for start, end in zip(places, places[1:], strict=False):
                client.send(data[start:end])
                await asyncio.sleep(0)
            for number, (kind, body) in enumerate(requests):
                expected = b"/read/%d " % number + (b"" if kind == "get" else body)
                assert (await client.answer())[2] == expected

    asyncio.run(run())


class Socket(asyncio.Protocol):
    """A protocol for WebSockets, as uvicorn makes one: it answers with what it was given."""

    def __init__(self, config, server_state, app_state):
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def test_a_websocket_is_left_to_the_servers_own_protocol():
    async with rigged(ws=Socket) as rig, rig.client() as client:
        client.get("/live?a=1", "Connection: Upgrade", "Upgrade: websocket", "X-It: me")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"GET /live?a=1 HTTP/1.1\r\nhost: x\r\n")
        assert b"x-it: me\r\n" in head
        client.send(b"frames")
        assert await client.reader.readexactly(6) == b"frames"
        assert rig.counters.open == 1


def test_without_httptools_a_sentence_says_what_to_install():
    code = "import sys; sys.modules['httptools'] = None; import headwater.web.uvicorn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'httptools is not installed: pip install "headwater[backend]"' in done.stderr
