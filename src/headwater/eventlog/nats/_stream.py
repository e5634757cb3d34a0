"""The JetStream stream under a log: its settings, its life, and direct reads of it.

One stream, ``S`` (``headwater`` by default), holds all topics:

- ``S.t.TOPIC``  the events; the payload is the JSON
- ``S.s.TOPIC``  one message: the highest sequence that was trimmed
- ``S.k.HASH``   one message that expires: how many events an append with a key had; they are just
  before it
- ``S.epoch``    one message: the log's epoch

The server publishes each event again at ``S.n.TOPIC`` once it is stored.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar
from zlib import crc32

import nats.errors
from nats.aio.msg import Msg

from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog._pushes import States
from headwater.eventlog._record import Bounds, Offset, Record, event_in, moment
from headwater.eventlog.nats._connection import NAME, Life, Link
from headwater.eventlog.nats._settings import ElsewhereError, check, nanoseconds, new_settings

AT, KEY = "Headwater-At", "Headwater-Key"

NO_STREAM, NAME_TAKEN, WRONG_SEQUENCE = 10059, 10058, 10071
# Seconds that a replica may lag behind its leader, and between two requests to it.
LAG, RETRY = 3.0, 0.02

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class ApiError(SourceUnavailableError):
    """JetStream refused a request.

    Attributes:
        code: JetStream's number of the reason.
    """

    def __init__(self, source: str, detail: str, code: int = 0) -> None:
        super().__init__(source, detail)
        self.code = code


class Stream:
    """The stream of one log. Raises SourceUnavailableError.

    Attributes:
        replicas: how many servers keep the stream, for one that is created.
        keys_kept: the window for duplicates: the longest that any process has asked for.
    """

    def __init__(self, link: Link, name: str, replicas: int, keys_kept: timedelta) -> None:
        self._link = link
        self.name = name
        self.replicas = replicas
        self.keys_kept = keys_kept
        self._ready = False
        self._warned = ""
        # The epoch in which events may have been stored elsewhere.
        self._doubtful: str | None = None

    def subject(self, kind: str, topic: str) -> str:
        """The subject of a topic. A dot would end the token, and ``=`` is in no topic's name."""
        return f"{self.name}.{kind}.{topic.replace('.', '=')}"

    def topic(self, subject: str) -> str:
        """The topic of a subject."""
        return subject.split(".", 2)[2].replace("=", ".")

    async def call(self, verb: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call JetStream's API for the stream. Raises ApiError."""
        payload = b"" if body is None else json.dumps(body).encode()
        subject = f"$JS.API.STREAM.{verb}.{self.name}"
        try:
            (answer,) = await self._link.run(lambda life: life.ask(subject, payload))
        except nats.errors.NoRespondersError as error:
            raise SourceUnavailableError(NAME, "JetStream is not enabled, or away") from error
        return answer_of(answer)

    async def replace(
        self,
        subject: str,
        payload: bytes,
        sequence: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Replace the last message of a subject; with sequence 0 store its first one.

        Returns False, and stores nothing, if the last message has another sequence.
        """
        sent = {"Nats-Expected-Last-Subject-Sequence": str(sequence), **(headers or {})}
        if sequence:
            sent["Nats-Rollup"] = "sub"
        try:
            (answer,) = await self._link.run(lambda life: life.ask(subject, payload, sent))
            answer_of(answer)
        except nats.errors.NoRespondersError as error:
            raise SourceUnavailableError(NAME, "its stream has no leader yet") from error
        except ApiError as error:
            if error.code != WRONG_SEQUENCE:
                raise
            return False
        return True

    async def run(self, work: Callable[[Life], Awaitable[_T]], *, again: bool = True) -> _T:
        """As ``Link.run``. Creates the stream where nobody has answered for it."""
        for _ in range(2):
            await self.ready()
            try:
                return await self._link.run(work, again=again)
            except nats.errors.NoRespondersError as error:
                self.forget()
                away = error
        raise SourceUnavailableError(NAME, "its stream is not there, or has no leader") from away

    async def ready(self) -> None:
        """Create the stream and its epoch if they are missing."""
        if not self._ready:
            await self._open()
            self._ready = True
            if self._doubtful is not None:
                await self.begin_anew(self._doubtful)
                self._doubtful = None

    def forget(self) -> None:
        """Look for the stream before the next use, because it was not there."""
        self._ready = False

    async def get(self, request: Mapping[str, Any]) -> list[Msg]:
        """Read stored messages. The answer's last message is not one of them: it has the status."""
        payload = json.dumps(request).encode()
        subject = f"$JS.API.DIRECT.GET.{self.name}"
        return await self.run(lambda life: life.ask(subject, payload, many=True))

    async def states(self, topics: Sequence[str]) -> States:
        """The state of the log and of a few topics, at one moment."""
        epoch, head, last = await self._last_of(topics)
        found: dict[str, Bounds] = {}
        for topic in topics:
            trimmed = int(last[one].data) if (one := self.subject("s", topic)) in last else 0
            event = last.get(self.subject("t", topic))
            latest, mark = trimmed, ""
            if event is not None and sequence_of(event) > trimmed:
                latest, mark = sequence_of(event), mark_of(event)
            found[topic] = Bounds(epoch, Offset.of(trimmed), Offset.of(latest), mark)
        return States(epoch, head, found)

    async def last(self, subject: str) -> Msg | None:
        """The last message of a subject."""
        messages = await self.get({"multi_last": [subject], "batch": 1})
        return messages[0] if len(messages) > 1 else None

    async def begin_anew(self, epoch: str) -> None:
        """Replace this epoch by another one, unless another process has done so already."""
        own = f"{self.name}.epoch"
        stored = await self.last(own)
        if stored is not None and stored.data.decode() == epoch:
            await self.replace(own, _new_epoch(), sequence_of(stored))

    async def _last_of(self, topics: Sequence[str]) -> tuple[str, int, dict[str, Msg]]:
        """The epoch, the stream's last sequence, and the last messages by subject."""
        own = f"{self.name}.epoch"
        subjects = [own, *(self.subject(kind, topic) for topic in topics for kind in "ts")]
        request = {"multi_last": subjects, "batch": len(subjects)}
        for _ in range(2):
            floor = await self._floor()
            deadline = time.monotonic() + LAG
            while True:
                *messages, end = await self.get(request)
                head = int((end.headers or {}).get("Nats-UpTo-Sequence", 0))
                if head >= floor or time.monotonic() > deadline or not messages:
                    break
                await asyncio.sleep(RETRY)
            last = {(one.headers or {})["Nats-Subject"]: one for one in messages}
            if own in last:
                return last[own].data.decode(), max(head, floor), last
            self.forget()
        raise SourceUnavailableError(NAME, "its epoch is not there")

    async def _floor(self) -> int:
        """The sequence that a server must have reached to answer: any replica may answer a read."""
        if self.replicas == 1:
            return 0
        info = await self.call("INFO")
        return int(info["state"]["last_seq"])

    async def _open(self) -> None:
        try:
            info = await self.call("INFO")
        except ApiError as error:
            if error.code != NO_STREAM:
                raise
            info = await self._create()
        config = info["config"]
        self.replicas = int(config["num_replicas"])
        check(self.name, config)
        await self._keep(config)
        await self.replace(f"{self.name}.epoch", _new_epoch())

    async def _keep(self, config: Mapping[str, Any]) -> None:
        """Let the server keep keys for long enough, and single events as long as their topics."""
        wanted = nanoseconds(self.keys_kept)
        if config["duplicate_window"] < wanted or not config.get("deny_delete"):
            # If a single event were deleted, no reader could see the hole.
            window = max(config["duplicate_window"], wanted)
            changed = {"duplicate_window": window, "deny_delete": True}
            config = (await self.call("UPDATE", {**config, **changed}))["config"]
        self.keys_kept = max(
            self.keys_kept, timedelta(microseconds=config["duplicate_window"] // 1000)
        )

    async def _create(self) -> dict[str, Any]:
        try:
            wanted = new_settings(self.name, self.replicas, self.keys_kept)
            return await self.call("CREATE", wanted)
        except ApiError as error:
            if error.code != NAME_TAKEN:  # another process was first
                raise
            return await self.call("INFO")

    def key_name(self, topic: str, key: str) -> str:
        """A topic's key as a hash, so that it is short."""
        return hashlib.blake2s(f"{topic} {key}".encode(), digest_size=16).hexdigest()

    def key_subject(self, topic: str, key: str) -> str:
        """Where the note of a key is."""
        return f"{self.name}.k.{self.key_name(topic, key)}"

    def key_headers(self) -> dict[str, str]:
        """For the note of a key, which is stored once and expires."""
        seconds = self.keys_kept // timedelta(seconds=1)
        return {"Nats-Expected-Last-Subject-Sequence": "0", "Nats-TTL": f"{seconds}s"}

    async def server_time(self) -> datetime:
        """The present time, by the server's clock."""
        seconds, _, fraction = str((await self.call("INFO"))["ts"]).rstrip("Z").partition(".")
        return datetime.fromisoformat(f"{seconds}.{fraction[:6]:0<6}+00:00")

    async def inspect(self) -> None:
        """Log an error, once, if somebody edited the stream so that events are lost or late.

        If events are stored elsewhere, the log raises until that is undone, and then begins anew.
        """
        try:
            config = (await self.call("INFO"))["config"]
            check(self.name, config)
            await self._keep(config)
            self._warned = ""
        except UsageError as error:
            if isinstance(error, ElsewhereError):
                stored = await self.last(f"{self.name}.epoch")
                self._doubtful = None if stored is None else stored.data.decode()
                self.forget()
            if str(error) != self._warned:
                self._warned = str(error)
                _log.error("%s", error)


def answer_of(answer: Msg) -> dict[str, Any]:
    """The JSON of JetStream's answer. Raises ApiError if that is an error."""
    content: dict[str, Any] = json.loads(answer.data)
    if "error" in content:
        error = content["error"]
        raise ApiError(NAME, error.get("description", "refused"), error.get("err_code", 0))
    return content


def sequence_of(message: Msg) -> int:
    """The sequence of a stored message."""
    return int((message.headers or {})["Nats-Sequence"])


def record_of(topic: str, message: Msg) -> Record | None:
    """The record in a stored message; None for a message of another program."""
    headers = message.headers or {}
    data = event_in(topic, headers["Nats-Sequence"], message.data if AT in headers else None)
    if data is None:
        return None
    offset, at = Offset.of(sequence_of(message)), moment(int(headers[AT]))
    return Record(topic, offset, at, data, headers.get(KEY), mark_of(message))


def records_of(topic: str, messages: Sequence[Msg]) -> list[Record]:
    """The records in stored messages, without what other programs stored."""
    return [one for one in (record_of(topic, message) for message in messages) if one is not None]


def mark_of(message: Msg) -> str:
    """The mark of the event in a stored message."""
    return mark((message.headers or {}).get(AT, ""), message.data)


def mark(at: str, data: bytes) -> str:
    """The mark of an event with this moment and JSON."""
    return f"{at}x{crc32(data):x}"


def _new_epoch() -> bytes:
    """Letters and digits only, as a position carries it."""
    return secrets.token_hex(16).encode()
