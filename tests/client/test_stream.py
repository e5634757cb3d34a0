"""Both clients against a real connection: what the network and the server do to a stream.

Covers ``aio``, ``sync`` and ``transport``, which are two shells over one ``Session``.
"""

import asyncio
import errno
import os
import subprocess
import sys
import time

import httpx
import pytest

import headwater.client
import headwater.client.sync
from headwater.errors import (
    EventTooLargeError,
    ResponseError,
    SourceUnavailableError,
    UsageError,
)


def event(number):
    return f"id: {number}\ndata: {number}\n\n".encode()


def numbers(messages):
    return [int(message.data) for message in messages]


async def test_a_cut_stream_goes_on_where_it_was_and_nothing_is_lost_or_repeated(client, server):
    server.script(
        server.stream(
            b"\xef\xbb\xbfretry: 0\r", b"\n\r\n", event(1), b"id: 2\nda", b"ta: 2\n", b"\n"
        ),
        server.stream(event(3), b"id: 4\ndata: 4\n", server.ABORT),
        server.stream(event(4)[:-1]),
        [
            server.CHUNKED,
            b"%x\r\n%b\r\n" % (len(event(4)), event(4)),
            b"20\r\nid: 5\nda",
            server.ABORT,
        ],
        server.stream(event(5)),
    )
    messages, error, position = await client.messages(server.url)
    assert error is None
    assert numbers(messages) == [1, 2, 3, 4, 5]
    assert [seen.headers.get("last-event-id") for seen in server.seen] == [
        None,
        b"2",
        b"3",
        b"3",
        b"4",
        b"5",
    ]
    assert position == "5"


async def test_the_request_is_one_for_an_event_stream(client, server):
    await client.messages(
        server.url + "?level=error",
        token="key-1",
        headers={"X-Trace": "é"},
        last_event_id="7",
        cookies={"session": "abc"},
    )
    [seen] = server.seen
    assert seen.target == "/api/logs/stream?level=error"
    assert seen.headers["accept"] == b"text/event-stream"
    assert seen.headers["cache-control"] == b"no-store"
    assert seen.headers["accept-encoding"] == b"identity"
    assert seen.headers["authorization"] == b"Bearer key-1"
    assert seen.headers["x-trace"] == "é".encode()
    assert seen.headers["last-event-id"] == b"7"
    assert seen.headers["cookie"] == b"session=abc"


async def test_a_server_that_restarts_is_found_again(client, server):
    waits = []
    server.script(
        server.stream(event(1)),
        [server.ABORT],
        server.answer(503, b"", "Retry-After: 0"),
        server.answer(502, b"<html>bad gateway"),
        server.stream(event(2)),
    )
    messages, error, _ = await client.messages(server.url, on_wait=waits.append)
    assert error is None
    assert numbers(messages) == [1, 2]
    assert len(waits) == 5
    assert waits[0].cause == "the server ended the stream"
    assert waits[3].cause == "HTTP 502: <html>bad gateway"


@pytest.mark.parametrize("status", [401, 403, 404, 422])
async def test_an_answer_that_will_not_change_is_raised_with_what_the_server_said(
    client, server, status
):
    body = b'{"title": "no", "detail": "sign in first"}'
    server.script(server.answer(status, body, "Content-Type: application/problem+json"))
    messages, error, _ = await client.messages(server.url)
    assert messages == []
    assert isinstance(error, ResponseError)
    assert (error.status, error.detail) == (status, "sign in first")
    assert len(server.seen) == 1


async def test_a_page_that_is_no_stream_is_not_read_as_one(client, server):
    server.script(server.answer(200, b"data: x\n\n", "Content-Type: text/html"))
    messages, error, _ = await client.messages(server.url)
    assert messages == []
    assert "text/html" in str(error)


async def test_an_endless_error_page_is_not_read_to_its_end(client, server):
    head = b"HTTP/1.1 404 X\r\nConnection: close\r\n\r\n"
    server.script([head, b"x" * 200_000, server.HOLD])
    _, error, _ = await client.messages(server.url)
    assert isinstance(error, ResponseError)
    assert len(error.detail) == 200
    async with asyncio.timeout(10):
        await server.left.wait()


async def test_a_server_that_never_answers_is_given_up_when_asked_so(client, server):
    server.script(server.stream(event(1)), [server.ABORT], [server.ABORT], [server.ABORT])
    messages, error, _ = await client.messages(server.url, give_up_after=3)
    assert numbers(messages) == [1]
    assert isinstance(error, SourceUnavailableError)
    assert len(server.seen) == 4


async def test_a_port_where_nobody_listens_is_an_unavailable_source(client):
    _, error, _ = await client.messages("http://127.0.0.1:1/stream", give_up_after=1)
    assert isinstance(error, SourceUnavailableError)
    assert "http://127.0.0.1:1/stream" in str(error)


async def test_a_connection_that_died_without_a_word_is_noticed_by_its_silence(client, server):
    server.script(server.stream(event(1), server.HOLD), server.stream(event(2)))
    waits = []
    messages, _, _ = await client.messages(server.url, idle_timeout=0.1, on_wait=waits.append)
    assert numbers(messages) == [1, 2]
    assert waits[0].cause == "nothing came for too long"


async def test_an_event_without_end_is_an_error_not_a_full_memory(client, server):
    server.script(server.stream(event(1), b"data: " + b"x" * 5000, server.HOLD))
    messages, error, _ = await client.messages(server.url, max_event_bytes=1000)
    assert numbers(messages) == [1]
    assert isinstance(error, EventTooLargeError)


async def test_whoever_stops_half_way_and_stores_the_position_gets_the_rest_later(client, server):
    server.script(server.stream(event(1) + event(2) + event(3), server.HOLD))
    messages, _, position = await client.messages(server.url, count=2)
    assert numbers(messages) == [1, 2]
    assert position == "2"


async def test_leaving_closes_the_connection(client, server):
    server.script(server.stream(event(1), server.HOLD))
    await client.messages(server.url, count=1)
    async with asyncio.timeout(10):
        await server.left.wait()


async def test_an_id_that_is_not_ascii_goes_back_as_utf8(client, server):
    server.script(server.stream("id: ключ\ndata: 1\n\n".encode()))
    await client.messages(server.url)
    assert server.seen[1].headers["last-event-id"] == "ключ".encode()


@pytest.mark.parametrize("id", [" a", "a ", "a\x01b", "\x7f"])
async def test_an_id_that_no_header_can_hold_goes_back_in_the_query(client, server, id):
    server.script(server.stream(f"id: {id}\ndata: 1\n\n".encode()))
    await client.messages(server.url + "?level=error")
    assert "last-event-id" not in server.seen[1].headers
    query = httpx.URL(server.url + server.seen[1].target).params
    assert query["lastEventId"] == id
    assert query["level"] == "error"


async def test_a_redirect_is_followed_but_secrets_do_not_go_to_another_host(client, server):
    port = server.port
    server.script(
        server.answer(307, b"", "Location: /elsewhere"),
        server.answer(307, b"", f"Location: http://localhost:{port}/other-host"),
        server.stream(event(1)),
    )
    messages, _, _ = await client.messages(
        server.url, count=1, token="key-1", cookies={"session": "abc"}
    )
    assert numbers(messages) == [1]
    assert [seen.target for seen in server.seen][1:] == ["/elsewhere", "/other-host"]
    assert server.seen[1].headers["cookie"] == b"session=abc"
    assert server.seen[1].headers["authorization"] == b"Bearer key-1"
    assert "cookie" not in server.seen[2].headers
    assert "authorization" not in server.seen[2].headers


async def test_cookies_reach_a_host_without_a_dot(client, server):
    await client.messages(f"http://localhost:{server.port}/stream", cookies={"session": "abc"})
    assert server.seen[0].headers["cookie"] == b"session=abc"


async def test_a_circle_of_redirects_ends(client, server):
    server.script(*[server.answer(307, b"", f"Location: {server.url}")] * 30)
    _, error, _ = await client.messages(server.url)
    assert isinstance(error, ResponseError)
    assert error.status == 307
    assert "circle" in str(error)
    assert len(server.seen) == 21


async def test_a_redirect_to_what_is_no_http_is_the_end(client, server):
    server.script(server.answer(307, b"", "Location: ftp://127.0.0.1/"))
    _, error, _ = await client.messages(server.url)
    assert isinstance(error, ResponseError)
    assert error.url == server.url
    says = f"HTTP 307 at {server.url}: it redirects, but 'ftp://127.0.0.1/' is not"
    assert str(error).startswith(says)


async def test_a_refused_connection_is_told_in_the_words_of_the_system(client, unused_tcp_port):
    """And not as "All connection attempts failed", which says nothing."""
    url = f"http://127.0.0.1:{unused_tcp_port}/"
    _, error, _ = await client.messages(url, give_up_after=1)
    assert str(error) == f"{url} cannot be read just now: {os.strerror(errno.ECONNREFUSED)}"


async def test_ones_own_client_is_used_and_stays_open(server):
    server.script(server.stream(event(1)))
    async with httpx.AsyncClient(headers={"X-Own": "1"}) as own:
        async with headwater.client.stream(server.url, client=own) as messages:
            assert (await anext(messages)).data == "1"
        assert not own.is_closed
    assert server.seen[0].headers["x-own"] == b"1"
    with httpx.Client() as own:
        headwater.client.sync.stream(server.url, client=own).close()
        assert not own.is_closed


async def test_a_task_that_is_cancelled_while_it_waits_leaves_at_once(server):
    server.script(server.stream(event(1), server.HOLD))
    first = asyncio.Event()

    async def follow():
        async with headwater.client.stream(server.url) as messages:
            async for _ in messages:
                first.set()

    task = asyncio.create_task(follow())
    async with asyncio.timeout(10):
        await first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.left.wait()


@pytest.mark.parametrize("module", [headwater.client, headwater.client.sync])
def test_cookies_for_somebody_elses_client_are_refused(module):
    with pytest.raises(UsageError, match="your own client"):
        module.stream("http://localhost/", client=object(), cookies={"a": "b"})


def test_without_its_extra_it_says_in_one_sentence_what_to_install():
    code = "import sys; sys.modules['httpx'] = None; import headwater.client"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'httpx is not installed: pip install "headwater[client]"' in done.stderr


async def test_a_host_that_takes_no_connection_is_not_waited_for_longer_than_any_other_silence(
    client, unreachable
):
    began = time.monotonic()
    _, error, _ = await client.messages(unreachable.url, idle_timeout=0.2, give_up_after=1)
    assert isinstance(error, SourceUnavailableError)
    assert time.monotonic() - began < 5
