"""Measurements that are more than events to streams that read."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import replace

from benchmarks.fanout import machine
from benchmarks.fanout.load import Load
from benchmarks.fanout.measure import FailedError, Figures, Plan, Row, figures_of, fire, opened, say
from benchmarks.fanout.ours import Committed, Headwater, PlainList
from benchmarks.fanout.peers import Peer
from benchmarks.fanout.tools import MissingError


def stalled(peer: Peer, plan: Plan) -> Figures:
    """Some streams stop reading: what the others notice, and what it costs."""
    load = Load()
    try:
        peer.aim(load, plan.groups)
        opened(load, peer, plan)
        before = fire(load, peer, plan, shots=plan.shots // 4)
        held = machine.memory(peer.pids)
        load.stall(0, plan.stalled, on=True)
        others = replace(plan, streams=plan.streams - plan.stalled)
        base, shots = peer.shots(plan.shots, streams=others.streams, burst=plan.burst)
        used, began = machine.cpu_seconds(peer.pids), time.monotonic()
        fired = load.fire(shots, base=base, limit=plan.seconds)
        used = machine.cpu_seconds(peer.pids) - used
        figures = figures_of(fired, used, time.monotonic() - began)
        kernel, now = machine.queued(peer.port), machine.memory(peer.pids)
        load.stall(0, plan.stalled, on=False)
        later = load.drain(quiet=1.0)
        sent = fired.fired * plan.burst
        load.close()
    finally:
        load.stop()
    machine.settle(peer.pids)
    return figures | {
        "p99_before": before["p99"],
        "kernel": kernel / 1024,
        "growth": (now - held) / 1024,
        "resumed": later.delivered - others.streams * sent,
        "of": sent * plan.stalled,
    }


def restart(plan: Plan, rounds: int) -> list[Row]:
    """Many streams open at once; the server is killed, rows are written, and all resume."""
    rows = [
        Row("opening"),
        Row("resuming, nothing missed"),
        Row("resuming, each missed some"),
    ]
    for number in range(rounds):
        say(f"  round {number + 1} of {rounds}")
        peer = Committed(counted=True)
        load = Load()
        try:
            os.environ["COUNT_PORT"] = str(machine.free_port())
            peer.start()
            rows[0].about = peer.about
            _write(peer, load, 20)
            for row, missed in zip(rows, (None, 0, plan.shots), strict=True):
                headers: tuple[str, ...] = ()
                if missed is not None:
                    body, _ = peer.get("/api/logs?limit=1")
                    headers = (f"Last-Event-ID: {body['position']}",)
                    peer.end(kill=True)
                    load.close()
                    _, shots = peer.shots(1, streams=1, burst=missed) if missed else (0, [])
                    base = peer.base - missed
                    for shot in shots:
                        _send(peer, shot.data)
                    peer.start()
                    load.expect(base)
                try:
                    row.rounds.append(_storm(load, peer, plan, headers, missed))
                except FailedError as error:
                    row.why_not = str(error)
        finally:
            load.stop()
            peer.stop()
    return rows


def _storm(
    load: Load, peer: Headwater, plan: Plan, headers: tuple[str, ...], missed: int | None
) -> Figures:
    peer.ready = "event: snapshot" if missed is None else "retry:"
    peer.aim(load, 1, peer.asking(*headers))
    peer.get("/api/logs?limit=1")
    machine.forget_peak(peer.pids)
    before, used = _statements(), machine.cpu_seconds(peer.pids)
    found = load.open(plan.streams, in_flight=1000, count=missed is not None)
    if not found["live"]:
        raise FailedError("no stream opened")
    after = _statements()
    came = load.drain(quiet=0.5)
    expected = found["live"] * (missed or 0)
    return {
        "seconds": found["seconds"],
        "per_s": found["live"] / found["seconds"],
        "refused": found["failed"],
        "statements": sum(
            n - before.get(word, 0)
            for word, n in after.items()
            if word not in ("BEGIN", "COMMIT", "ROLLBACK", "PRAGMA")
        ),
        "cpu": machine.cpu_seconds(peer.pids) - used,
        "peak": machine.memory(peer.pids, "VmHWM") / 1024**2,
        "lost": max(0, expected - came.delivered) if missed is not None else 0,
        "repeated": came.repeated if missed is not None else 0,
    }


def _write(peer: Peer, load: Load, rows: int) -> None:
    peer.aim(load, 1)
    _, shots = peer.shots(1, streams=1, burst=rows)
    _send(peer, shots[0].data)


def _send(peer: Peer, data: bytes) -> None:
    # The writer answers nothing; what it wrote is seen by its sequence numbers.
    with socket.socket(type=socket.SOCK_DGRAM) as outbox:
        outbox.sendto(data, ("127.0.0.1", peer.trigger_port))
    time.sleep(0.5)


def _statements() -> dict[str, int]:
    with socket.socket(type=socket.SOCK_DGRAM) as ask:
        ask.settimeout(5)
        ask.sendto(b"?", ("127.0.0.1", int(os.environ["COUNT_PORT"])))
        found: dict[str, int] = json.loads(ask.recv(65536))
    return found


def polls(plan: Plan, rounds: int) -> list[Row]:
    """REST polls with a current ETag and without one, beside a plain list."""
    ours = Headwater()
    rows = [Row("Headwater, ETag current"), Row("Headwater, no ETag"), Row(PlainList.name)]
    plain = PlainList(ours.database)
    load = Load()
    try:
        ours.start()
        rows[0].about = rows[1].about = ours.about
        ours.aim(load, 1)
        _, shots = ours.shots(1, streams=0, burst=100)
        load.fire(shots, base=0, limit=5)
        try:
            plain.start()
            rows[2].about = plain.about
        except MissingError as error:
            rows[2].why_not = str(error)
        # Somebody follows, as on any day: then a tail is alive.
        ours.aim(load, 1)
        load.open(1)
        _, etag = ours.get("/api/logs")
        for _ in range(rounds):
            asked = (
                (ours, ours.asking(f"If-None-Match: {etag}", path="/api/logs")),
                (ours, ours.asking(path="/api/logs")),
                (plain, ours.asking(path="/api/logs")),
            )
            for row, (peer, request) in zip(rows, asked, strict=True):
                if not row.why_not:
                    row.rounds.append(_polled(peer, request, plan))
    finally:
        load.stop()
        plain.stop()
        ours.stop()
    return rows


def _polled(peer: Peer, request: bytes, plan: Plan) -> Figures:
    load = Load()
    try:
        peer.aim(load, 1, request)
        load.poll(plan.streams, 200, limit=plan.seconds)
        load.close()
        used = machine.cpu_seconds(peer.pids)
        found = load.poll(plan.streams, plan.shots, limit=plan.seconds)
        used = machine.cpu_seconds(peer.pids) - used
        load.close()
    finally:
        load.stop()
    if found["s4"] or found["s5"] or not found["polled"]:
        raise FailedError(f"polls were refused: {found}")
    return {
        "polls_per_s": found["polled"] / found["seconds"],
        "cpu": used / found["polled"] * 1e6,
        "not_modified": found["s3"] / found["polled"] * 100,
        "client_busy": found["cpu"] / found["seconds"],
    }
