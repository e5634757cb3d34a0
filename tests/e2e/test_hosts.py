"""Two hosts that share a PostgreSQL and an event log, and what their clients see when one dies.

Each host is a network namespace: it reaches the servers of the hub, and not the other host. So
nothing but those servers can carry an event from one to the other.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from right_trials import lose_rights
from running import Running

from headwater.protocol import Decoder
from support.http import Answer
from support.nats import Nats
from support.network import Host, Unavailable, network
from support.postgres import Postgres
from support.valkey import Valkey

pytestmark = pytest.mark.long


class HostedServer(Running):
    """``headwater serve`` on a host, which the hub reaches too."""

    def __init__(
        self, host: Host, folder: Path, database: str, event_log: str, **settings: object
    ) -> None:
        folder.mkdir()
        super().__init__(
            *(None, folder), database=database, event_log=event_log, host="0.0.0.0", **settings
        )
        self.host = host
        self.address = f"http://{host.address}:{self.port}"
        self.api.base_url = self._satellite.base_url = self.address

    def know(self, other: HostedServer) -> None:
        """What another server on the same database was set up with."""
        self.api.headers.update(other.api.headers)
        self._satellite.headers.update(other._satellite.headers)
        self.user_id, self.satellite_id = other.user_id, other.satellite_id

    async def publish(self, number: int) -> None:
        """One log entry, which goes through the table, and one report, through the event log."""
        await asyncio.to_thread(self.host.run, self.log, f"{number}")
        await asyncio.to_thread(self.host.run, self.report, number)


class Client:
    """A client on the hub that goes on elsewhere when its host is gone.

    Attributes:
        told: what the events said, in order.
        resumed: how often it came back.
    """

    def __init__(self, hub: Host, path: str, key: str, token: str) -> None:
        self.told: list[float] = []
        self.resumed = -1
        self._hub, self._path, self._key, self._token = hub, path, key, token
        self._last = ""
        self._news = asyncio.Event()

    async def run(self, servers: list[HostedServer]) -> None:
        """Follow at the first of the servers, and at the next one when that is gone."""
        for server in servers:
            self.resumed += 1
            try:
                await self._follow(server)
            except (OSError, EOFError):
                continue

    async def _follow(self, server: HostedServer) -> None:
        with self._hub.entered():
            # It stays on the hub, wherever it connects from.
            sock = socket.socket()
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(sock, (server.host.address, server.port))
            reader, writer = await asyncio.open_connection(sock=sock)
        except BaseException:
            sock.close()
            raise
        answer = Answer(reader, writer)
        try:
            lines = [f"GET {self._path}/stream HTTP/1.1", "Host: headwater", self._token]
            lines += [f"Last-Event-ID: {self._last}"] if self._last else []
            writer.write("\r\n".join([*lines, "", ""]).encode())
            await answer.read_head()
            assert answer.status == 200, await answer.body()
            decoder = Decoder(last_event_id=self._last)
            while data := await answer.read_some():
                for message in decoder.feed(data):
                    assert (message.event == "snapshot") is (not self._last), message
                    self._last = message.last_event_id
                    if message.event != "snapshot":
                        self.told.append(float(json.loads(message.data)[self._key]))
                self._news.set()
        finally:
            answer.leave()

    async def until(self, count: int) -> None:
        """Wait until it is open and was told so many."""
        async with asyncio.timeout(30):
            while not self._last or len(self.told) < count:
                self._news.clear()
                await self._news.wait()


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, list[Host]]]:
    """The hub and two hosts."""
    made = network(2)
    try:
        found = made.__enter__()
    except Unavailable as reason:
        pytest.skip(f"no network namespaces here (root on Linux has them): {reason}")
    yield found
    made.__exit__(None, None, None)


@pytest.fixture(scope="module")
def seeded_database(
    hosts: tuple[Host, list[Host]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Postgres, str, HostedServer]]:
    """A PostgreSQL on the hub, the name of a database, and the server that set it up."""
    hub, (host, _) = hosts
    postgres = Postgres(listen_addresses="*")
    try:
        postgres.create()
        with (postgres.data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.99.0.0/16 trust\n")
        hub.run(postgres.start)
        name = postgres.database()
        address = f"postgresql://postgres@{hub.address}/{name}"
        folder = tmp_path_factory.mktemp("hosts") / "seeded"
        server = HostedServer(host, folder, address, "memory://")
        try:
            host.run(server.seed)
            server.stop()
            yield postgres, name, server
        finally:
            server.close()
    finally:
        postgres.remove()


@pytest.fixture(params=[Valkey, pytest.param(Nats, marks=pytest.mark.soak)], ids=["redis", "nats"])
def engine(request: Any, hosts: tuple[Host, list[Host]], tmp_path: Path) -> Iterator[str]:
    """The address of an event log's engine on the hub."""
    hub, _ = hosts
    if request.param is Valkey:
        made: Valkey | Nats = Valkey(
            tmp_path / "engine",
            *("--bind", "0.0.0.0", "--protected-mode", "no", "--appendonly", "yes"),
        )
    else:
        made = Nats(tmp_path / "engine", "--addr", "0.0.0.0")
    try:
        hub.run(asyncio.run, made.start())
        yield made.url.replace("127.0.0.1", hub.address)
    finally:
        made.kill()


@pytest.fixture(params=[{}], ids=[""])
def servers(
    request: Any,
    hosts: tuple[Host, list[Host]],
    seeded_database: tuple[Postgres, str, HostedServer],
    engine: str,
    tmp_path: Path,
) -> Iterator[list[HostedServer]]:
    """One on each host, with the settings of the parameter."""
    hub, both = hosts
    postgres, template, seeded = seeded_database
    database = f"postgresql://postgres@{hub.address}/{postgres.database(template=template)}"
    made = [
        HostedServer(host, tmp_path / f"host-{number}", database, engine, **request.param)
        for number, host in enumerate(both)
    ]
    try:
        with ThreadPoolExecutor() as starts:
            for server in made:
                server.know(seeded)
            started = [starts.submit(server.host.run, server.start) for server in made]
        for each in started:
            each.result()
        yield made
    finally:
        for server in made:
            server.close()


async def test_what_one_host_takes_the_other_tells_and_its_clients_outlive_it(
    hosts: tuple[Host, list[Host]], servers: list[HostedServer]
) -> None:
    """Each event once and in order for each client, across ``kill -9`` of the host it was at."""
    hub, _ = hosts
    doomed, other = servers
    token = f"Authorization: {doomed.api.headers['Authorization']}"
    feeds = [
        ("/api/logs", "message"),
        (f"/api/satellites/{doomed.satellite_id}/metrics", "cpu_percent"),
    ]
    leaving, staying = (
        [Client(hub, path, key, token) for path, key in feeds for _ in range(count)]
        for count in (8, 2)
    )
    tasks = [asyncio.create_task(client.run([doomed, other])) for client in leaving]
    tasks += [asyncio.create_task(client.run([other])) for client in staying]
    try:
        for client in leaving + staying:
            await client.until(0)
        for number in range(20):
            await (doomed, other)[number % 2].publish(number)
        for client in leaving + staying:
            await client.until(20)
        await asyncio.to_thread(doomed.kill)
        for number in range(20, 40):
            await other.publish(number)
        for client in leaving + staying:
            await client.until(40)
            assert client.told == list(range(40))
        assert {client.resumed for client in leaving} == {1}
        assert {client.resumed for client in staying} == {0}
    finally:
        for task in tasks:
            task.cancel()
        done, _ = await asyncio.wait(tasks)
    for task in done:
        assert task.cancelled() or task.exception() is None


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("servers", [{"recheck_seconds": 30}], indirect=True)
def test_a_right_that_is_lost_at_one_host_ends_what_stands_on_it_at_the_other(
    hosts: tuple[Host, list[Host]], servers: list[HostedServer]
) -> None:
    """Their own looks at the rights come too late to matter."""
    hub, _ = hosts
    took = hub.run(asyncio.run, lose_rights(servers, 160))
    assert max(took) < 1.0
    assert [server.complaints() for server in servers] == [[], []]
