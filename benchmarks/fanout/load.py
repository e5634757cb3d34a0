"""The load generator as an object: one process of ``client.c``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fanout.tools import compiled


@dataclass(frozen=True, slots=True)
class Shot:
    """One trigger.

    Attributes:
        data: what is sent to make the server deliver.
        first, count: the sequence numbers that it makes.
        expected: deliveries that it makes, of all streams together.
    """

    data: bytes
    first: int
    count: int
    expected: int


@dataclass(frozen=True, slots=True)
class Fired:
    """What came of some shots.

    Attributes:
        delivered, lost, repeated: deliveries by their sequence numbers.
        gaps: how often a number came that was not the one after the last.
        seconds: from the first shot until the last delivery.
        worked: seconds that the client had something to read; it is no bottleneck while these
            are fewer than ``seconds``.
        p50, p99, p100: microseconds from a shot to a delivery.
        refusals: shots that a server answered with anything but 2xx.
    """

    delivered: int
    lost: int
    repeated: int
    gaps: int
    seconds: float
    worked: float
    p50: float
    p99: float
    p100: float
    live: int
    refusals: int
    fired: int
    bytes: int


class ClientError(Exception):
    """The load generator failed: it says why on standard error."""


class Load:
    """One load generator, with up to as many streams as a process may have files.

    Arguments:
        source: its addresses are 127.SOURCE.x.1; others run beside it with other ones.
    """

    def __init__(self, source: int = 0) -> None:
        self._process = subprocess.Popen(
            [str(compiled("client")), str(source)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def target(
        self,
        port: int,
        request: bytes,
        *,
        groups: int,
        marker: str,
        ready: str,
        trigger: str,
        trigger_port: int,
    ) -> None:
        """Whom to ask what. ``{G}`` in the request becomes a stream's group."""
        head = f"target 127.0.0.1 {port} {groups} {len(request)}\n".encode()
        self._say(head + request)
        self._say(f"marker {marker}\n".encode())
        if ready:
            self._say(f"ready {ready}\n".encode())
        self._say(f"trigger {trigger} 127.0.0.1 {trigger_port}\n".encode())

    def open(
        self,
        streams: int,
        *,
        in_flight: int = 64,
        small: int = 0,
        limit: float = 60.0,
        count: bool = False,
    ) -> dict[str, Any]:
        """Open streams, so many at a time; the first ``small`` ones with a small buffer."""
        return self._say(f"open {streams} {in_flight} {small} {limit} {int(count)}\n".encode())

    def fire(
        self,
        shots: Sequence[Shot],
        *,
        base: int,
        every: float | None = None,
        gap: float = 0.0,
        limit: float = 30.0,
        slack: float = 10.0,
    ) -> Fired:
        """Fire shots, one after another has arrived, or one ``every`` so many seconds.

        Arguments:
            base: the last sequence number before these.
            gap: seconds between the last delivery of one and the next.
            slack: seconds without any delivery after which the rest counts as lost.
        """
        mode = f"c {gap}" if every is None else f"o {every}"
        lines = [f"fire {len(shots)} {mode} {limit} {slack} {base}\n".encode()]
        for shot in shots:
            about = f"{shot.first} {shot.count} {shot.expected} {len(shot.data)}\n"
            lines += (about.encode(), shot.data)
        return _fired(self._say(b"".join(lines)))

    def drain(self, *, quiet: float = 0.5, limit: float = 20.0) -> Fired:
        """Read until nothing came for ``quiet`` seconds; counts on from what was fired."""
        return _fired(self._say(f"drain {quiet} {limit}\n".encode()))

    def expect(self, base: int) -> None:
        """Count anew: ``base`` is the last sequence number that each stream has had."""
        self._say(f"expect {base}\n".encode())

    def stall(self, first: int, many: int, *, on: bool) -> dict[str, Any]:
        """Stop reading some streams, or begin again."""
        return self._say(f"stall {first} {many} {int(on)}\n".encode())

    def poll(self, connections: int, total: int, *, limit: float) -> dict[str, Any]:
        """Ask again and again over connections that stay open."""
        return self._say(f"poll {connections} {total} {limit}\n".encode())

    def close(self) -> None:
        """Drop all streams at once."""
        self._say(b"close\n")

    def _say(self, line: bytes) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            raise ClientError(f"the load generator ended at {line[:60]!r}")
        found: dict[str, Any] = json.loads(answer)
        return found


def _fired(answer: dict[str, Any]) -> Fired:
    expected = answer.pop("expected")
    return Fired(lost=max(0, expected - answer["delivered"]), **answer)


def built() -> Path:
    """Compile the load generator now. Raises MissingError."""
    return compiled("client")
