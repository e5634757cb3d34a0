"""Everything that a stream promises holds for both senders."""

from __future__ import annotations

import pytest

from support import server

STREAMING = (
    "test_event_stream",
    "test_feed_answers",
    "test_feed_joins",
    "test_feeds",
    "test_handlers",
    "test_keyed_feeds",
    "test_senders",
    "test_stream_info",
)
SENDERS = {"asgi": "httptools", "direct": "headwater.web.uvicorn:Protocol"}


def pytest_generate_tests(metafunc):
    if metafunc.module.__name__.rpartition(".")[2] in STREAMING:
        metafunc.fixturenames.append("sender")
        senders = ["direct", pytest.param("asgi", marks=pytest.mark.long)]
        metafunc.parametrize("sender", senders, indirect=True)


@pytest.fixture
def sender(request, monkeypatch):
    """Which sender the test's server uses."""
    monkeypatch.setattr(server, "HTTP", SENDERS[request.param])
    return request.param
