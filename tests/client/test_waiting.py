"""Waits that are cancelled, iterators that are closed from elsewhere, and servers that dawdle."""

import asyncio
import gc
import subprocess
import sys
import textwrap
import threading

import httpx
import pytest

import headwater.client
import headwater.client.sync
from headwater.errors import HeadwaterError, ResponseError, SourceUnavailableError, UsageError
from support.until import until


def event(number):
    return f"id: {number}\ndata: {number}\n\n".encode()


async def soon(awaitable):
    async with asyncio.timeout(10):
        return await awaitable


async def test_a_time_out_around_anext_loses_nothing_and_keeps_the_connection(server):
    go = asyncio.Event()
    server.script(server.stream(event(1), go, event(2), event(3), server.HOLD))
    async with headwater.client.stream(server.url) as messages:
        assert (await soon(anext(messages))).data == "1"
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(messages), 0.01)
        go.set()
        assert [(await soon(anext(messages))).data for _ in range(2)] == ["2", "3"]
    assert len(server.seen) == 1


async def test_a_time_out_while_it_connects_or_waits_loses_nothing(server):
    go = asyncio.Event()
    server.script([go, server.STREAM, event(1)], server.stream(event(2)))
    async with headwater.client.stream(server.url, retry=0.05) as messages:
        got = []
        while len(got) < 2:
            try:
                got.append((await asyncio.wait_for(anext(messages), 0.01)).data)
            except TimeoutError:
                go.set()
    assert got == ["1", "2"]
    assert [seen.position for seen in server.seen][:2] == [None, "1"]


@pytest.mark.parametrize("open_name", ["stream", "follow"])
async def test_another_task_can_close_it(server, open_name):
    server.script(server.stream(b'id: 1\ndata: {"n": 1}\n\n', server.HOLD))
    values = getattr(headwater.client, open_name)(server.url)
    got = asyncio.Event()

    async def read():
        async for _ in values:
            got.set()

    reading = asyncio.create_task(read())
    await soon(got.wait())
    await soon(values.aclose())
    await soon(reading)
    await soon(server.left.wait())
    with pytest.raises(StopAsyncIteration):
        await anext(values)


async def test_another_thread_can_close_the_one_for_asyncio(server):
    server.script(server.stream(event(1), server.HOLD))
    async with headwater.client.stream(server.url) as messages:
        await soon(anext(messages))
        threading.Thread(target=messages.close).start()
        with pytest.raises(StopAsyncIteration):
            await soon(anext(messages))


async def test_one_that_was_closed_before_it_began_connects_nowhere(client, server):
    for _ in range(2):
        values = client.opened("stream", server.url)
        values.close()
        messages = [each async for each in values] if hasattr(values, "aclose") else [*values]
        assert messages == []
    assert server.seen == []


@pytest.mark.parametrize("script", ["open", "connecting", "pause"])
async def test_another_thread_can_close_the_one_without_asyncio(server, script):
    """In the middle of a read, of a connect, and of the pause before a reconnect."""
    reached = threading.Event()
    server.script(
        {
            "open": server.stream(event(1), server.HOLD),
            "connecting": [server.HOLD],
            "pause": server.answer(503, b"", "Retry-After: 60"),
        }[script]
    )
    messages = headwater.client.sync.stream(server.url, on_wait=lambda _: reached.set())
    got = []

    def read():
        for message in messages:
            got.append(message)
            reached.set()

    reading = asyncio.create_task(asyncio.to_thread(read))
    if script == "connecting":
        await until(lambda: server.seen)
    else:
        await asyncio.to_thread(reached.wait, 10)
    messages.close()
    await soon(reading)
    assert len(got) == (script == "open")
    assert list(messages) == []


async def test_it_is_closed_at_once_while_a_host_takes_no_connection(unreachable):
    others = unreachable.connecting()
    messages = headwater.client.sync.stream(unreachable.url)
    reading = asyncio.create_task(asyncio.to_thread(list, messages))
    await until(lambda: unreachable.connecting() > others)
    messages.close()
    async with asyncio.timeout(5):
        assert await reading == []


async def test_a_host_that_takes_no_connection_is_polled_like_one_that_is_silent(unreachable):
    waits = []

    def note(wait):
        waits.append(wait)
        feed.close()

    feed = headwater.client.sync.follow(unreachable.url, fallback=0.2, on_wait=note)
    async with asyncio.timeout(5):
        assert await asyncio.to_thread(list, feed) == []
    assert waits[0].cause.endswith("polling instead")


async def test_several_threads_may_take_from_one(server):
    server.script(server.stream(*map(event, range(100))))
    messages = headwater.client.sync.stream(server.url, retry=0)
    parts = await soon(asyncio.gather(*[asyncio.to_thread(list, messages) for _ in range(4)]))
    assert sorted(int(message.data) for part in parts for message in part) == list(range(100))


async def test_a_callback_may_close_it(client, server):
    server.script(server.stream(event(1)), server.stream(event(2)))
    values = []

    def close(_):
        values[0].close()

    values.append(client.opened("stream", server.url, on_wait=close, retry=0))
    if hasattr(values[0], "aclose"):
        got = [each.data async for each in values[0]]
    else:
        got = await asyncio.to_thread(lambda: [each.data for each in values[0]])
    assert got == ["1"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_an_interrupted_wait_without_asyncio_goes_on_at_its_position():
    # Ctrl-C in an interactive shell, say.
    code = """
        import socket, threading, os, signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
        from headwater.client.sync import stream

        listener = socket.create_server(("127.0.0.1", 0))
        HEAD = b"HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\n\\r\\n"

        def serve():
            first, _ = listener.accept()
            first.recv(65536)
            first.sendall(HEAD + b"id: 1\\ndata: 1\\n\\n")
            first.recv(1)
            second, _ = listener.accept()
            assert b"Last-Event-ID: 1" in second.recv(65536)
            second.sendall(HEAD + b"id: 2\\ndata: 2\\n\\n")
            second.recv(1)
            for each in (first, second, listener):
                each.close()

        serving = threading.Thread(target=serve)
        serving.start()
        messages = stream(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        print(next(messages).data)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            next(messages)
        except KeyboardInterrupt:
            print(next(messages).data)
        messages.close()
        serving.join()
    """
    assert run(code) == ("1\n2\n", "", 0)


def run(code):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout, done.stderr, done.returncode


async def test_whoever_leaves_without_a_with_block_sees_nothing_in_the_log(server):
    block = b'id: 1\ndata: {"n": 1}\n\n'
    server.script(*[server.stream(block * 3, server.HOLD)] * 5)
    code = f"""
    import asyncio, gc
    from headwater.client import follow, stream

    url = {server.url!r}

    async def breaks():
        async for message in stream(url):
            break

    async def breaks_and_goes_on():
        await breaks()
        gc.collect()
        await asyncio.sleep(0.05)

    async def takes_one():
        feed = follow(url)
        await anext(feed)

    async def fails():
        async for message in stream(url):
            raise SystemExit

    async def leaves_a_task_that_waits():
        feed = follow(url)
        for _ in range(3):
            await anext(feed)
        waiting = asyncio.create_task(wait(feed))
        await asyncio.sleep(0)  # it begins to wait

    async def wait(feed):
        await anext(feed)

    for leave in (breaks, breaks_and_goes_on, takes_one, fails, leaves_a_task_that_waits):
        try:
            asyncio.run(leave())
        except SystemExit:
            pass
        gc.collect()
    print("end")
    """
    assert await asyncio.to_thread(run, code) == ("end\n", "", 0)
    await until(lambda: len(server.seen) == 5)


async def test_whoever_leaves_without_a_with_block_leaves_no_connection(server):
    server.script(server.stream(event(1), server.HOLD))

    async def first():
        async for message in headwater.client.stream(server.url):
            return message

    assert (await soon(first())).data == "1"
    gc.collect()
    await soon(server.left.wait())


@pytest.mark.parametrize("end", ["", "values.close()"])
async def test_whoever_leaves_the_one_without_asyncio_sees_nothing_either(server, end):
    server.script(server.stream(event(1), server.HOLD))
    code = f"""
    from headwater.client.sync import stream
    values = stream({server.url!r})
    for message in values:
        break
    {end}
    """
    assert await asyncio.to_thread(run, code) == ("", "", 0)
    await soon(server.left.wait())


def test_one_cannot_be_shared_by_two_event_loops():
    messages = headwater.client.stream("http://127.0.0.1:1/", give_up_after=1)

    async def first():
        return await anext(messages)

    with pytest.raises(SourceUnavailableError):
        asyncio.run(first())
    with pytest.raises(UsageError, match="another event loop"):
        asyncio.run(first())


async def test_a_head_that_trickles_is_not_waited_for_for_ever(client):
    left = asyncio.Event()

    async def trickle(reader, writer):
        try:
            while not writer.is_closing():
                writer.write(b"H")
                await writer.drain()
                await asyncio.sleep(0.01)  # the pace of the trickle
        except ConnectionError:
            pass
        finally:
            writer.close()
            left.set()

    async with await asyncio.start_server(trickle, "127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        _, error, _ = await client.messages(url, idle_timeout=0.3, give_up_after=1)
        await soon(left.wait())
    assert isinstance(error, HeadwaterError)
    assert "the response did not begin in time" in str(error)


async def test_an_error_page_that_trickles_is_not_waited_for_for_ever(client, server):
    byte = [b"1\r\nx\r\n"] * 3
    server.script([b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n", *byte, server.HOLD])
    _, error, _ = await client.messages(server.url, idle_timeout=0.2, give_up_after=1)
    assert isinstance(error, HeadwaterError)
    await soon(server.left.wait())


@pytest.mark.parametrize("encoding", ["gzip, nonsense", "x-nothing", "compress"])
async def test_an_encoding_that_nobody_knows_is_an_error_with_a_sentence(client, server, encoding):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: %b\r\n\r\n"
    server.script(*[[head % encoding.encode(), event(1)]] * 2)
    messages, error, _ = await client.messages(server.url)
    assert messages == []
    assert isinstance(error, ResponseError)
    assert "Content-Encoding" in str(error)
    assert encoding.split()[-1] in str(error)
    assert len(server.seen) == 1


async def test_an_end_without_a_body_needs_no_encoding(client, server):
    """Some proxies name an encoding in every answer."""
    server.script(server.stream(event(1)), server.answer(204, b"", "Content-Encoding: br"))
    messages, error, _ = await client.messages(server.url)
    assert [message.data for message in messages] == ["1"]
    assert error is None


async def test_a_compressed_stream_is_read_all_the_same(client, server):
    import gzip

    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n"
    server.script([head, gzip.compress(event(1) + event(2))])
    messages, _, _ = await client.messages(server.url)
    assert [message.data for message in messages] == ["1", "2"]


async def test_a_server_that_stops_is_come_back_to_when_it_says(client, server):
    """A refusal for the time being is a 200, since browsers come back from nothing else."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nRetry-After: %d\r\n\r\n"
    waits = []
    refusal = b"retry: 30\n\n: the server is stopping\n\n"
    server.script([head % 0, refusal], [head % 0, b"retry: 0\n\n", event(1)], [head % 0])
    messages, error, _ = await client.messages(server.url, on_wait=waits.append)
    assert error is None
    assert len(messages) == 1
    assert (waits[0].seconds, waits[1].seconds) == (0.03, 0.0)
    assert waits[0].cause == "the server ended the stream: the server is stopping"
    assert waits[1].cause == "the server ended the stream"


async def test_a_server_that_keeps_refusing_is_given_up_when_asked_so(client, server):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nRetry-After: 0\r\n\r\n"
    server.script(*[[head, b": at its limit\n\n"]] * 3)
    _, error, _ = await client.messages(server.url, give_up_after=2)
    assert isinstance(error, SourceUnavailableError)
    assert "at its limit" in str(error)
    assert len(server.seen) == 2


async def test_a_reader_who_is_slow_holds_two_pieces_of_the_network_at_most():
    """What was not taken stays with the server."""
    pulled = 0

    async def body():
        nonlocal pulled
        for number in range(1000):
            pulled += 1
            yield event(number)

    def answer(_):
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=body())

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as own:
        async with headwater.client.stream("http://h/", client=own) as messages:
            for taken in range(1, 4):
                await soon(anext(messages))
                for _ in range(100):
                    await asyncio.sleep(0)
                assert pulled <= taken + 2
