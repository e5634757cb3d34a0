"""What is asked for: addresses, headers, bodies, and how to sign in."""

import base64
import json

import httpx
import pytest

import headwater.client
import headwater.client.sync
from headwater.client._address import checked_url, shown
from headwater.client._headers import merged
from headwater.errors import PeerError, ResponseError, SourceUnavailableError, UsageError


def event(number):
    return f"id: {number}\ndata: {number}\n\n".encode()


ODD_ADDRESSES = [
    "",
    "/stream",
    "ftp://host/",
    "http://",
    "host:80/stream",
    "http://[::1",
    "http://[1]/",
    "http://h:99999/",
    "http://h:0/",
    "http://h:port/",
    "http://a..b/",
    "http://.a/",
    "http://" + "a" * 64 + "/",
    "http://" + ".".join(["a" * 60] * 5) + "/",
    "http://one two/",
    "http://h\x00/",
    "http://h/\n",
    "http://h/\ud800",
    "http://\ud800/",
    "http://-a/",
    "http://a_b-/",
    "http://%zz/",
    "http://user:secret@/",
]


@pytest.mark.parametrize("open_name", ["stream", "follow"])
@pytest.mark.parametrize("url", ODD_ADDRESSES, ids=ascii)
def test_an_address_that_is_none_is_one_sentence_before_anything_is_tried(client, open_name, url):
    with pytest.raises(UsageError, match="is not an http:// or https:// address") as caught:
        client.opened(open_name, url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", [None, 7, b"http://h/"])
def test_what_is_no_text_is_no_address(url):
    with pytest.raises(UsageError, match="is not an address"):
        checked_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "http://h.:8000/a",
        "https://müller.example/ü?q=ü",
        "http://127.0.0.1/",
        "http://[::1]:80/",
        "http://[fe80::1%25eth0]/",
        "http://a_b.example/",
        "http://user:secret@h/",
    ],
)
def test_other_addresses_are_taken_as_they_are(url):
    assert checked_url(url) == url


def test_a_password_in_an_address_is_not_shown():
    assert shown("http://user:secret@h/a:b") == "http://user:***@h/a:b"
    assert shown("http://h/a:b") == "http://h/a:b"


async def test_an_address_whose_host_does_not_exist_is_a_source_that_is_away(client):
    url = "http://user:secret@no-such-host.invalid/stream"
    _, error, _ = await client.messages(url, give_up_after=1)
    assert isinstance(error, SourceUnavailableError)
    assert "no-such-host.invalid" in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    "location",
    ["http://a..b/", "http://[::1", "http://" + "a" * 70 + "/", "http://h:99999/", "http://h:0/"],
)
async def test_a_redirect_to_an_odd_address_is_the_end(client, server, location):
    """It would be as odd at the next try, so the error says what is wrong with it."""
    server.script(*[server.answer(307, b"", f"Location: {location}")] * 3)
    _, error, _ = await client.messages(server.url, give_up_after=3)
    assert isinstance(error, PeerError)
    assert "redirects" in str(error)
    assert len(server.seen) == 1


async def test_params_go_into_the_query(client, server):
    await client.messages(server.url + "?a=1&b=2", params={"b": "3 4", "c": ["x", "y"]})
    assert server.seen[0].target == "/api/logs/stream?a=1&b=3+4&c=x&c=y"


def test_headers_that_are_given_twice_are_sent_once_and_the_later_wins():
    assert merged({"A": "1", "b": "2"}, [("a", "3"), ("B", "4"), ("b", "5")]) == {
        b"a": b"3",
        b"b": b"5",
    }


async def test_each_header_is_sent_once_whoever_gives_it(client, server):
    headers = [("accept", "text/event-stream, */*"), ("X-A", "1"), ("x-a", "2"), ("cookie", "")]
    headers.append(("authorization", "Basic abc"))
    await client.messages(server.url, headers=headers, token="key")
    [seen] = server.seen
    assert len(seen.names) == len(set(seen.names))
    assert seen.headers["accept"] == b"text/event-stream, */*"
    assert seen.headers["x-a"] == b"2"
    assert seen.headers["authorization"] == b"Basic abc"


async def test_a_position_among_the_headers_is_where_it_begins_and_moves_on(client, server):
    server.script(server.stream(event(8)))
    await client.messages(server.url, headers={"last-event-id": "7"})
    assert [seen.position for seen in server.seen] == ["7", "8"]
    assert server.seen[1].names.count("last-event-id") == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"X A": "1"},
        {"": "1"},
        {"Ä": "1"},
        {b"a": "1"},
        {"a": 1},
        {"a": "secret\nb: c"},
        {"a": "secret\ud800"},
        {"a": " secret"},
        {"a": "secret\0"},
    ],
    ids=ascii,
)
def test_headers_that_cannot_be_are_named_and_their_values_are_not(client, headers):
    with pytest.raises(UsageError, match="headers: ") as caught:
        client.opened("stream", "http://h/", headers=headers)
    assert "secret" not in str(caught.value)


async def test_a_body_makes_it_a_post_which_is_sent_once(client, server):
    """The answer of a language model is not asked for twice."""
    server.script(server.stream(event(1), event(2)))
    messages, error, _ = await client.messages(server.url, json={"text": "é", "stream": True})
    assert error is None
    assert [message.json() for message in messages] == [1, 2]
    [seen] = server.seen
    assert (seen.method, json.loads(seen.body)) == ("POST", {"text": "é", "stream": True})
    assert seen.headers["content-type"] == b"application/json"


async def test_a_post_that_breaks_off_is_an_error(client, server):
    server.script([server.CHUNKED, b"5\r\ndata:", server.ABORT])
    messages, error, _ = await client.messages(server.url, method="POST")
    assert messages == []
    assert isinstance(error, SourceUnavailableError)
    assert len(server.seen) == 1


async def test_a_post_to_a_busy_server_is_an_error(client, server):
    server.script(server.answer(503, b'{"detail": "busy"}', "Retry-After: 0"))
    _, error, _ = await client.messages(server.url, content="x")
    assert isinstance(error, ResponseError)
    assert (error.status, error.detail) == (503, "busy")
    assert server.seen[0].body == b"x"


async def test_a_post_is_followed_where_it_is_asked_for(client, server):
    server.script(server.stream(event(1)), server.stream(event(2)))
    messages, _, _ = await client.messages(server.url, json=[], reconnect=True)
    assert len(messages) == 2
    assert [seen.method for seen in server.seen] == ["POST"] * 3
    assert [seen.body for seen in server.seen] == [b"[]"] * 3
    assert server.seen[2].position == "2"


async def test_a_get_can_be_told_not_to_come_back(client, server):
    server.script(server.stream(event(1)))
    messages, error, _ = await client.messages(server.url, reconnect=False)
    assert (len(messages), error, len(server.seen)) == (1, None, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"json": 1, "content": b"x"},
        {"json": {1, 2}},
        {"json": float("nan")},
        {"content": "\ud800"},
        {"method": ""},
        {"method": "PO ST"},
        {"token": "key", "auth": ("a", "b")},
        {"token": "a b"},
        {"last_event_id": "a\nb"},
        {"last_event_id": 7},
        {"last_event_id": "\ud800"},
        {"params": 7},
        {"idle_timeout": 0},
        {"retry": -1},
        {"retry": float("nan")},
        {"idle_timeout": float("inf")},  # None waits for ever
        {"fallback": 1e300},
    ],
    ids=str,
)
def test_options_that_cannot_work_are_refused_before_anything_is_tried(client, options):
    with pytest.raises(UsageError):
        client.opened("follow", "http://h/", **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content", {"a": "secret"}),
        ("headers", 7),
        ("headers", "X-A: secret"),
        ("headers", [("X-A",)]),
        ("cookies", "a=secret"),
        ("cookies", {"a": 7}),
        ("token", 7),
        ("auth", "user:secret"),
        ("position_file", 7),
        ("on_position", "secret"),
        ("on_open", 7),
        ("on_wait", 7),
        ("random", 0.5),
        ("random", None),
        ("reconnect", "no"),
        ("retry", "2"),
        ("retry", None),
        ("idle_timeout", "90"),
        ("fallback", "5"),
        ("give_up_after", "3"),
        ("give_up_after", 1.5),
        ("max_event_bytes", None),
        ("envelope", 7),
        ("client", 7),
    ],
)
def test_an_option_of_another_type_is_named_and_its_value_is_not(client, name, value):
    with pytest.raises(UsageError, match="token" if name == "token" else f"^{name}") as caught:
        client.opened("follow", "http://h/", **{name: value})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "fits", "other"),
    [
        (headwater.client, httpx.AsyncClient, httpx.Client),
        (headwater.client.sync, httpx.Client, httpx.AsyncClient),
    ],
)
def test_a_client_of_the_other_kind_is_refused(module, fits, other):
    sentence = f"^client= must be an httpx.{fits.__name__}, not {other.__name__}$"
    with pytest.raises(UsageError, match=sentence):
        module.stream("http://h/", client=other())


def test_an_option_that_there_is_not_is_an_error_with_those_that_there_are(client):
    with pytest.raises(TypeError, match=r"^there is no option retires=: there are auth, .* token$"):
        client.opened("stream", "http://h/", retires=2)
    with pytest.raises(TypeError, match="there is no option fallback="):
        client.opened("stream", "http://h/", fallback=2)
    with pytest.raises(TypeError, match="fallback, "):
        client.opened("follow", "http://h/", retires=2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PROXY", "ftp://user:secret@proxy"),
        ("HTTPS_PROXY", "http://[::1"),
        ("SSL_CERT_FILE", "/nowhere.pem"),
    ],
)
async def test_an_environment_that_cannot_be_used_is_named(client, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    monkeypatch.delenv(name.lower(), raising=False)
    try:
        _, error, _ = await client.messages("http://h/")
    except UsageError as refused:
        error = refused
    assert name in str(error)
    assert "secret" not in str(error)


async def test_auth_is_what_httpx_takes_and_goes_to_the_first_host_alone(client, server):
    server.script(
        server.stream(event(1)),
        server.answer(307, b"", f"Location: http://localhost:{server.port}/other-host"),
    )
    await client.messages(server.url, auth=("user", "pass"))
    basic = b"Basic " + base64.b64encode(b"user:pass")
    assert [seen.headers.get("authorization") for seen in server.seen] == [basic, basic, None]


async def test_a_function_gives_the_token_for_each_connection(client, server):
    server.script(server.stream(event(1)), server.stream(event(2)))
    tokens = iter(["a", "b", "c"])
    await client.messages(server.url, token=lambda: next(tokens))
    sent = [seen.headers["authorization"] for seen in server.seen]
    assert sent == [b"Bearer a", b"Bearer b", b"Bearer c"]


async def test_a_coroutine_function_may_give_the_token(server):
    async def token():
        return "a"

    async with headwater.client.stream(server.url, token=token) as messages:
        assert [message async for message in messages] == []
    assert server.seen[0].headers["authorization"] == b"Bearer a"


@pytest.mark.parametrize("name", ["token", "on_open", "on_position"])
async def test_coroutine_functions_need_asyncio(name):
    async def function(*_):
        pass

    with pytest.raises(UsageError, match=f"{name}= is a coroutine function"):
        headwater.client.sync.stream("http://h/", **{name: function})
    headwater.client.stream("http://h/", **{name: function})


async def test_nobody_waits_for_on_wait(client):
    async def function(_):
        pass

    with pytest.raises(UsageError, match="on_wait="):
        client.opened("stream", "http://h/", on_wait=function)


async def test_on_open_may_be_a_coroutine_function(server):
    opened = []

    async def note(response):
        opened.append(response.status_code)

    server.script(server.stream(event(1)))
    async with headwater.client.stream(server.url, on_open=note, retry=0) as messages:
        assert (await anext(messages)).data == "1"
    assert opened == [200]


async def test_a_token_that_ran_out_is_replaced_once(client, server):
    server.script(
        server.stream(event(1)), server.answer(401), server.stream(event(2)), server.answer(401)
    )
    server.script(server.answer(401, b'{"detail": "no"}'))
    tokens = iter("abcdefg")
    messages, error, _ = await client.messages(server.url, token=lambda: next(tokens))
    assert len(messages) == 2
    assert isinstance(error, ResponseError)
    assert error.status == 401
    assert [seen.headers["authorization"][-1:] for seen in server.seen] == [
        b"a", b"b", b"c", b"d", b"e",
    ]  # fmt: skip


async def test_a_right_that_a_feed_lost_is_asked_for_anew_with_another_token(client, server):
    ended = b'event: error\ndata: {"status": 401}\n\n'
    log = b'event: log\nid: 1\ndata: {"id": 1}\n\n'
    server.script(server.stream(log, ended), server.stream(log), server.answer(403))
    values, error, _ = await client.values(server.url, token=lambda: "key")
    assert len(values) == 2
    assert error.status == 403


async def test_an_error_of_the_callers_own_function_reaches_the_caller(client, server):
    def token():
        raise ValueError("no token today")

    with pytest.raises(ValueError, match="no token today"):
        await client.messages(server.url, token=token)
    assert server.seen == []


@pytest.mark.parametrize("name", ["on_open", "on_wait", "on_position"])
async def test_an_error_of_a_callback_is_not_taken_for_one_of_the_network(client, server, name):
    class MyError(Exception):
        pass

    def fail(_):
        raise MyError

    server.script(server.stream(event(1)), server.stream(event(2)))
    with pytest.raises(MyError):
        await client.messages(server.url, **{name: fail})
    assert len(server.seen) == 1


async def test_each_stream_that_opens_is_announced_with_its_headers(client, server):
    opened = []
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Model: %b\r\n\r\n"
    server.script([head % b"one", event(1)], [head % b"two", event(2)], server.answer(503))
    server.script([head % b"three"])
    await client.messages(server.url, on_open=opened.append)
    assert [response.headers["x-model"] for response in opened] == ["one", "two", "three"]


async def test_the_newest_answer_can_be_looked_at(server):
    server.script([server.STREAM[:-2], b"X-Model: one\r\n\r\n", event(1), server.HOLD])
    async with headwater.client.stream(server.url) as messages:
        assert messages.response is None
        await anext(messages)
        assert messages.response.headers["x-model"] == "one"
        assert messages.response.status_code == 200


async def test_ones_own_clients_way_to_sign_in_is_used_unless_a_token_is_given(server):
    async with httpx.AsyncClient(auth=("a", "b"), headers={"accept": "x/y"}) as own:
        async with headwater.client.stream(server.url, client=own) as messages:
            assert [message async for message in messages] == []
        async with headwater.client.stream(server.url, client=own, token="key") as messages:
            assert [message async for message in messages] == []
    first, second = (seen.headers for seen in server.seen)
    assert first["authorization"].startswith(b"Basic ")
    assert first["accept"] == b"text/event-stream"
    assert second["authorization"] == b"Bearer key"
