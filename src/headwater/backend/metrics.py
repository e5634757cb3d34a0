"""``/metrics``: counters of this process, for Prometheus.

With several workers each answers for itself, and a scrape reaches one of them: the label
``worker`` (its process id) on ``headwater_info`` names it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.responses import Response

from headwater.backend.state import Backend
from headwater.eventlog import foreign_entries
from headwater.web.fastapi import LiveRouter
from headwater.web.uvicorn._limits import ConnectionCounters

# Delivery's counters by name: what each counts.
_DELIVERY = {
    "opened": "Streams opened.",
    "refused": "Streams refused while shutting down.",
    "limited": "Streams and polls refused above a limit.",
    "frames": "Events written to streams.",
    "writes": "Writes to connections. Events of one turn of the event loop share a write.",
    "resets": "Streams whose position could not be resumed.",
    "stalled": "Streams dropped because the client read nothing for a long time.",
    "overrun": "Streams dropped because too many bytes waited for them.",
    "denied": "Streams ended because their right was lost.",
    "reread": "Times that a slow stream read the source again.",
    "source_failures": "Failed reads of a source.",
    "invalid_skipped": "Items left out because they do not fit their model.",
    "invalid_held": "Streams and pages that an item stopped, as it does not fit its model.",
}


class Measures(Collector):
    """The counters of one application, those that other parts keep among them.

    Attributes:
        connections: what the server counts of its connections.
    """

    def __init__(self, live: LiveRouter, backend: Callable[[], Backend]) -> None:
        self.connections = ConnectionCounters()
        self._live = live
        self._backend = backend
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self.requests = Counter(
            "headwater_requests",
            "Requests by route and status.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        # To the head of the answer: a stream's body has no end.
        self.seconds = Histogram(
            "headwater_request_seconds",
            "Seconds until the head of the answer.",
            ("method", "route"),
            buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self._registry,
        )
        self._registry.register(self)
        # By method, route and status. The library would look its labels up each time.
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        found = self._known.get((method, route, status))
        if found is None:
            found = self._known[method, route, status] = (
                self.requests.labels(method, route, str(status)),
                self.seconds.labels(method, route),
            )
        found[0].inc()
        found[1].observe(seconds)

    def render(self) -> Response:
        """Everything, as Prometheus reads it."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def describe(self) -> list[Metric]:
        # Nothing can be collected before the application runs.
        return []

    def collect(self) -> Iterator[Metric]:
        """What other parts count, read when Prometheus asks."""
        stats: Any = self._live.stats
        backend = self._backend()
        yield InfoMetricFamily("headwater", "This process.", value={"worker": str(os.getpid())})
        for name, text, value in (
            ("streams_open", "Open streams.", stats.open),
            ("streams_waiting", "REST requests that wait for an item.", stats.waiting),
            ("connections_open", "Open connections.", self.connections.open),
        ):
            yield GaugeMetricFamily(f"headwater_{name}", text, value=value)
        for name, text in _DELIVERY.items():
            yield CounterMetricFamily(f"headwater_streams_{name}", text, value=getattr(stats, name))
        for name, text, value in (
            (
                "event_log_foreign_entries",
                "Entries of the event log that another program wrote. They are skipped.",
                foreign_entries(),
            ),
            ("database_statements", "Statements run on the database.", backend.database.statements),
            (
                "writes_throttled",
                "Requests that change something, refused because the caller sent too many.",
                backend.writes.refused,
            ),
            (
                "sign_in_failures",
                "Sign-ins with a wrong e-mail address or password.",
                backend.sign_ins.failures,
            ),
            (
                "sign_ins_throttled",
                "Sign-ins refused after too many wrong ones.",
                backend.sign_ins.throttled,
            ),
        ):
            yield CounterMetricFamily(f"headwater_{name}", text, value=value)
        refused = CounterMetricFamily(
            "headwater_connections_refused",
            "Connections refused or closed, by the reason.",
            labels=["reason"],
        )
        for reason, number in self.connections.by_reason.items():
            refused.add_metric([reason], number)
        yield refused
