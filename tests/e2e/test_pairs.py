"""The two halves of each of the backend's five feeds: one content, one right, one description."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import Running

from headwater.protocol import Decoder, Message

pytestmark = pytest.mark.long

PROBLEM = "application/problem+json"


@dataclass(frozen=True)
class Pair:
    """One feed.

    Attributes:
        path: of the REST half; ``{team}`` and ``{satellite}`` stand for ids.
        query: what it cannot do without.
        event, collection: its names.
        filters: parameters that narrow it, as queries.
        malformed: queries of which each is a 422, with the field that it names.
    """

    path: str
    event: str
    collection: str
    query: str = ""
    filters: tuple[str, ...] = ()
    malformed: tuple[tuple[str, str], ...] = ()

    @property
    def limits(self) -> tuple[tuple[str, str], ...]:
        return tuple((f"limit={value}", "limit") for value in ("0", "101", "-1", "abc", "1e2", ""))


PAIRS = {
    "notifications": Pair("/api/notifications", "notification", "notifications"),
    "team notifications": Pair("/api/teams/{team}/notifications", "notification", "notifications"),
    "logs": Pair(
        "/api/logs",
        "log",
        "logs",
        filters=("level=error", "level=debug&source=disk", "source=net", "source=nobody"),
        malformed=(
            ("level=nope", "level.0"),
            ("level=", "level.0"),
            (f"source={'x' * 201}", "source"),
        ),
    ),
    "client activity": Pair(
        "/api/users/me/mcp/client-activity",
        "client_activity",
        "activities",
        query="team_id={team}",
        filters=("active_within_minutes=1", "active_within_minutes=1440"),
        malformed=tuple(
            (f"active_within_minutes={value}", "active_within_minutes")
            for value in ("0", "1441", "-5", "soon", "")
        ),
    ),
    "metrics": Pair("/api/satellites/{satellite}/metrics", "metrics", "metrics"),
}


@pytest.fixture(scope="module")
def server(seeded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """With things in every feed."""
    running = Running(seeded, tmp_path_factory.mktemp("pairs"), cleanup_seconds=0.2)
    try:
        running.start()
        levels = ("debug", "info", "error")
        entries = [
            {
                "level": levels[number % 3],
                "source": ("disk", "net")[number % 2],
                "message": f'line {number} \u00e9\u6f22\U0001f600 \u2028 "quoted" \\ <&>',
                "fields": {"n": number, "nested": {"x": [1.5, None, True]}},
            }
            for number in range(130)
        ]
        running.post("/api/logs", {"entries": entries})
        for number in range(25):
            running.notify(f"title {number}", team=bool(number % 2))
            running.report(number / 3)
        for number in range(5):
            running.use(f"client {number}", requests=number)
        yield running
    finally:
        running.close()


@pytest.fixture(params=list(PAIRS))
def pair(request: pytest.FixtureRequest) -> Pair:
    return PAIRS[request.param]


def path_of(server: Running, pair: Pair, *queries: str, stream: bool = False, **ids: str) -> str:
    named = {"team": server.team_id, "satellite": server.satellite_id, **ids}
    query = "&".join(part.format(**named) for part in (pair.query, *queries) if part)
    return f"{pair.path.format(**named)}{'/stream' if stream else ''}?{query}"


def first_messages(
    client: httpx.Client, path: str, count: int = 1, **headers: str
) -> list[Message]:
    """The first events of a stream."""
    decoder, found = Decoder(), []
    with client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        for data in answer.iter_raw():
            found += decoder.feed(data)
            if len(found) >= count:
                return found
    raise AssertionError(f"the stream ended after {found}")


def both(
    client: httpx.Client,
    server: Running,
    pair: Pair,
    *queries: str,
    method: str = "GET",
    **ids: str,
) -> tuple[httpx.Response, httpx.Response]:
    """What the two halves answer to who gets no stream."""
    paths = [path_of(server, pair, *queries, stream=stream, **ids) for stream in (False, True)]
    found = [client.request(method, path) for path in paths]
    return found[0], found[1]


# One content


def test_the_snapshot_is_the_rest_body(server: Running, pair: Pair):
    for narrowed in ("", *pair.filters):
        for limit in ("", "limit=1", "limit=7", "limit=100"):
            body = server.api.get(path_of(server, pair, narrowed, limit)).json()
            path = path_of(server, pair, narrowed, limit, stream=True)
            (snapshot,) = first_messages(server.api, path)
            assert snapshot.event == "snapshot"
            assert json.loads(snapshot.data) == body
            assert snapshot.last_event_id == body["position"]
            assert set(body) == {pair.collection, "start", "position", "has_more"}


def test_the_page_before_is_the_same_on_both(server: Running, pair: Pair):
    """Also walked to the beginning: every item once, the oldest first."""
    query, found = "limit=3", []
    while True:
        body = server.api.get(path_of(server, pair, query)).json()
        (snapshot,) = first_messages(server.api, path_of(server, pair, query, stream=True))
        assert json.loads(snapshot.data) == body
        found = [*body[pair.collection], *found]
        if not body["has_more"]:
            break
        query = f"limit=3&before={body['start']}"
    whole = server.api.get(path_of(server, pair, "limit=100")).json()[pair.collection]
    assert found[-len(whole) :] == whole
    assert len({item["id"] for item in found}) == len(found) >= 5


def test_what_comes_after_a_position_is_the_same_on_both(server: Running, pair: Pair):
    page = server.api.get(path_of(server, pair, "limit=4")).json()
    body = server.api.get(path_of(server, pair, "limit=100", f"after={page['start']}")).json()
    path = path_of(server, pair, stream=True)
    for way in ({"Last-Event-ID": page["start"]}, {}):
        resumed = path if way else f"{path}&after={page['start']}"
        told = first_messages(server.api, resumed, len(body[pair.collection]), **way)
        assert {message.event for message in told} == {pair.event}
        assert [json.loads(message.data) for message in told] == body[pair.collection]
        # Either place is after the last item: nothing is left to come.
        for position in (told[-1].last_event_id, body["position"]):
            rest = server.api.get(path_of(server, pair, f"after={position}")).json()
            assert (rest[pair.collection], rest["has_more"]) == ([], False)


# One right


class Callers:
    """People who may not see a thing, each with what both halves say to them."""

    def __init__(self, server: Running) -> None:
        expired = server.person("expired")
        server.execute(
            "UPDATE sessions SET expires_at = '2020-01-01 00:00:00.000' WHERE user_id = ?",
            expired.id,
        )
        self.unknown = {
            "nobody": server.client(),
            "a session that never was": server.client(Cookie="session=never"),
            "a session that has expired": expired.api,
            "a key that never was": server.client(Authorization="Bearer hw_never"),
            "no key at all": server.client(Authorization="Bearer"),
            "another scheme": server.client(Authorization="Basic YWRtaW46YWRtaW4="),
        }
        self.satellite = server.client(**server.satellite_headers)
        self.stranger = server.person("stranger").api


@pytest.fixture(scope="module")
def callers(server: Running) -> Callers:
    return Callers(server)


def all_queries(pair: Pair) -> list[str]:
    """Well-formed and malformed ones: to who has no right it makes no difference."""
    return ["", "after=nonsense", *(query for query, _ in (*pair.limits, *pair.malformed))]


def test_401_comes_before_everything(server: Running, pair: Pair, callers: Callers):
    for client in callers.unknown.values():
        for method in ("GET", "HEAD"):
            for query in all_queries(pair):
                for answer in both(client, server, pair, query, method=method):
                    assert answer.status_code == 401
                    assert answer.headers["content-type"] == PROBLEM
                    assert "www-authenticate" in answer.headers
    # Also before one may know that a team or satellite does not exist, and before 406.
    nobody = callers.unknown["nobody"]
    for answer in both(nobody, server, pair, team="nowhere", satellite="nowhere"):
        assert answer.status_code == 401
    path = path_of(server, pair, stream=True)
    assert nobody.get(path, headers={"Accept": "application/json"}).status_code == 401


def test_403_for_a_caller_of_another_kind(server: Running, pair: Pair, callers: Callers):
    for query in all_queries(pair):
        answers = both(callers.satellite, server, pair, query)
        assert [answer.status_code for answer in answers] == [403, 403]
        assert answers[0].json()["detail"] == answers[1].json()["detail"]


@pytest.mark.parametrize("name", ["team notifications", "client activity", "metrics"])
def test_404_for_what_one_may_not_know_of(server: Running, name: str, callers: Callers):
    """The same for another team's and for what is not there."""
    pair = PAIRS[name]
    for query in all_queries(pair):
        for client, ids in (
            (callers.stranger, {}),
            (callers.stranger, {"team": "nowhere", "satellite": "nowhere"}),
            (server.api, {"team": "nowhere", "satellite": "nowhere"}),
        ):
            answers = both(client, server, pair, query, **ids)
            assert [answer.status_code for answer in answers] == [404, 404], query
            assert {answer.headers["content-type"] for answer in answers} == {PROBLEM}


def test_422_names_the_field_and_the_value_on_both(server: Running, pair: Pair):
    for query, field in (*pair.limits, *pair.malformed):
        answers = both(server.api, server, pair, query)
        assert [answer.status_code for answer in answers] == [422, 422], query
        told = [answer.json()["errors"] for answer in answers]
        assert told[0] == told[1]
        (error,) = told[0]
        assert (error["field"], error["in"]) == (field, "query")
        shown, whole = str(error["value"]), query.partition("=")[2]
        assert shown == whole or (shown.endswith("…") and whole.startswith(shown[:100]))
        assert error["detail"]


def test_422_for_a_team_that_was_not_named(server: Running):
    pair = Pair("/api/users/me/mcp/client-activity", "client_activity", "activities")
    for answer in both(server.api, server, pair):
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == ["team_id"]


def test_several_mistakes_are_told_at_once_and_alike(server: Running):
    answers = both(server.api, server, PAIRS["logs"], "limit=0", "level=nope")
    fields = [sorted(e["field"] for e in answer.json()["errors"]) for answer in answers]
    assert fields == [["level.0", "limit"]] * 2


# What may be asked of both


def test_head_answers_the_head_alone(server: Running, pair: Pair):
    rest, stream = both(server.api, server, pair, method="HEAD")
    assert (rest.status_code, stream.status_code) == (200, 200)
    assert rest.headers["etag"] == server.api.get(path_of(server, pair)).headers["etag"]
    assert rest.headers["content-type"] == "application/json"
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stream.headers["cache-control"] == "no-cache, no-transform"
    assert stream.headers["x-accel-buffering"] == "no"
    assert (rest.content, stream.content) == (b"", b"")


def test_other_methods_are_not_allowed(server: Running, pair: Pair):
    for stream in (False, True):
        answer = server.api.delete(path_of(server, pair, stream=stream))
        assert answer.status_code == 405
        assert "GET" in answer.headers["allow"]


def test_an_unchanged_page_is_not_sent_again(server: Running, pair: Pair):
    path = path_of(server, pair, "limit=2")
    tag = server.api.get(path).headers["etag"]
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        answer = server.api.get(path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
    other = server.api.get(path_of(server, pair, "limit=3"), headers={"If-None-Match": tag})
    assert other.status_code == 200
    writes = {
        "log": lambda: server.log("new"),
        "notification": lambda: server.notify("new", team=True),
        "metrics": lambda: server.report(1.0),
        "client_activity": lambda: server.use("client 0"),
    }
    writes[pair.event]()
    changed = server.api.get(path, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag


def test_who_wants_json_of_a_stream_is_sent_to_the_rest_half(server: Running, pair: Pair):
    path = path_of(server, pair, stream=True)
    for accept in ("application/json", "text/event-stream;q=0", "text/html, application/xml"):
        answer = server.api.get(path, headers={"Accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (406, PROBLEM)
        assert answer.json()["rest"] == path.partition("/stream")[0]
        assert answer.json()["rest"] in answer.json()["detail"]
    for accept in ("*/*", "text/*", "text/event-stream", "application/json, text/event-stream"):
        assert first_messages(server.api, path, Accept=accept)[0].event == "snapshot"


# Positions that cannot be resumed


def unusable(server: Running, pair: Pair) -> dict[str, str]:
    """Positions, with the reason that both halves give."""
    page = server.api.get(path_of(server, pair)).json()
    version, feed, epoch, place = page["position"].split(".")
    other = "/api/logs" if pair.event != "log" else "/api/notifications"
    return {
        "nonsense": "unknown",
        "1": "unknown",
        "...": "unknown",
        page["position"] + "x": "unknown",
        page["position"][:-1] + "\u00e9": "unknown",
        "x" * 3000: "unknown",
        server.api.get(other).json()["position"]: "unknown",
        ".".join((version, feed, epoch[::-1], place)): "unknown",
        ".".join((version, feed, epoch, "zzzzzzz")): "unknown",
        ".".join(("2", feed, epoch, place)): "unknown",
    }


def test_a_position_that_cannot_be_resumed(server: Running, pair: Pair):
    """A reset without an id and then a snapshot; on REST 410 with the same reason."""
    for position, reason in unusable(server, pair).items():
        params = httpx.QueryParams(after=position)
        rest = server.api.get(f"{path_of(server, pair)}&{params}")
        assert (rest.status_code, rest.headers["content-type"]) == (410, PROBLEM), position
        assert rest.json()["reason"] == reason
        stream = path_of(server, pair, stream=True)
        asked = [first_messages(server.api, f"{stream}&{params}", 2)]
        header = {"Last-Event-ID": position.encode()}
        asked.append(first_messages(server.api, stream, 2, **header))
        body = server.api.get(path_of(server, pair)).json()
        for reset, snapshot in asked:
            assert (reset.event, json.loads(reset.data)) == ("reset", {"reason": reason})
            assert reset.last_event_id == ""
            assert (snapshot.event, snapshot.last_event_id) == ("snapshot", body["position"])
            assert json.loads(snapshot.data) == body


@pytest.mark.soak
def test_a_position_that_is_older_than_what_is_kept(server: Running):
    """Who had not read what was removed is told. Takes the time that open streams are given."""
    pair = PAIRS["logs"]
    position = server.api.get(path_of(server, pair)).json()["position"]
    for _ in range(2):
        server.execute(
            "INSERT INTO log_entries (user_id, message, created_at) VALUES (?, 'old', "
            "'2020-01-01 00:00:00.000')",
            server.user_id,
        )
    while (rest := server.api.get(path_of(server, pair, f"after={position}"))).status_code == 200:
        assert len(rest.json()["logs"]) <= 2
    assert (rest.status_code, rest.json()["reason"]) == (410, "expired")
    # A stream on a selection that nobody has followed yet: what is followed, memory still has.
    path = path_of(server, pair, "level=warning", f"after={position}", stream=True)
    reset, snapshot = first_messages(server.api, path, 2)
    assert json.loads(reset.data) == {"reason": "expired"}
    assert snapshot.event == "snapshot"


# What is written


def test_what_is_not_allowed_is_not_written(server: Running):
    good = {"message": "never"}
    bad: list[tuple[Any, str]] = [
        ({"entries": [good] * 1001}, "entries"),
        ({"entries": []}, "entries"),
        ({"entries": [good, {**good, "level": "nope"}]}, "entries.1.level"),
        ({"entries": [good, {**good, "colour": "red"}]}, "entries.1.colour"),
        ({"entries": [good], "more": 1}, "more"),
        ({"entries": [good, {"message": 5}]}, "entries.1.message"),
        ({"entries": [{**good, "fields": {"x": "\ud800"}}]}, "entries.0.fields"),
        ({"entries": [{"message": "never \ud800"}]}, "entries.0.message"),
        ({}, "entries"),
        ([], ""),
    ]
    before = server.api.get("/api/logs").json()["position"]
    for body, field in bad:
        # As ASCII, so that also a lone surrogate can be sent.
        content = json.dumps(body).encode()
        answer = server.api.post(
            "/api/logs", content=content, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 422, (field, answer.text)
        assert answer.headers["content-type"] == PROBLEM
        if field:
            assert field in [error["field"] for error in answer.json()["errors"]]
    for content in (b"{", b"\xff\xfe", b"", b'{"entries": [{"message": "x", "message": }]}'):
        answer = server.api.post(
            "/api/logs", content=content, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 422, content
    large = json.dumps({"entries": [{"message": "x" * 2_000}] * 1000}).encode()
    answer = server.api.post(
        "/api/logs", content=large, headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (413, PROBLEM)
    assert server.api.get("/api/logs").json()["position"] == before


def test_no_body_is_looked_at_before_the_right(server: Running, callers: Callers):
    posts = (
        "/api/logs",
        "/api/notifications",
        "/api/users",
        "/api/teams",
        "/api/satellites",
        f"/api/satellites/{server.satellite_id}/metrics",
        f"/api/satellites/{server.satellite_id}/client-activity",
    )
    for path in posts:
        for content in (b"{", b"", b'{"colour": "red"}', b"x" * 2_000_000):
            answer = callers.unknown["nobody"].post(path, content=content)
            assert (path, answer.status_code) == (path, 401)
    for path in posts[2:]:
        answer = callers.stranger.post(path, content=b"{")
        assert (path, answer.status_code) == (path, 403)


# One description


def test_the_description_of_both_halves(server: Running, pair: Pair):
    document = server.api.get("/openapi.json").json()
    assert document["openapi"] == "3.2.0"
    path = pair.path.format(team="{team_id}", satellite="{satellite_id}")
    rest = document["paths"][path]["get"]
    stream = document["paths"][f"{path}/stream"]["get"]

    def names(operation: dict[str, Any]) -> set[tuple[str, str]]:
        return {(parameter["in"], parameter["name"]) for parameter in operation["parameters"]}

    assert names(rest) - {("query", "wait")} == names(stream) - {
        ("query", "lastEventId"),
        ("header", "Last-Event-ID"),
        ("query", "heartbeat"),
    }
    assert rest["security"] == stream["security"]
    assert {name for one in stream["security"] for name in one} == {"session", "api_key"}
    assert "application/json" in rest["responses"]["200"]["content"]
    content = stream["responses"]["200"]["content"]
    assert list(content) == ["text/event-stream"]
    branches = content["text/event-stream"]["itemSchema"]["oneOf"]
    events = [branch["properties"]["event"]["const"] for branch in branches]
    wanted = {"snapshot", pair.event, "reset", "error"}
    if pair.event == "client_activity":
        wanted.add("client_activity_removed")
    assert set(events) == wanted
    assert len(events) == len(wanted)
    assert {"401", "403", "422"} <= set(rest["responses"]) & set(stream["responses"])


def test_every_protected_operation_says_how_to_be_let_in(server: Running):
    """Asked of the server itself: what answers 401 has security, what does not has none."""
    document = server.api.get("/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"session", "api_key"}
    nobody = server.client()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            answer = nobody.request(method, re.sub(r"{\w+}", "x", path))
            if path == "/api/auth/login":
                assert not operation.get("security")
                continue
            assert (answer.status_code == 401) == bool(operation.get("security")), (method, path)


def test_nothing_of_this_was_an_error_to_the_server(server: Running):
    assert server.complaints() == []
