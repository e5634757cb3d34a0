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
        senders = ["direct", pytest.param("asgi", marks=pytest.mark.long)]
        metafunc.parametrize("sender", senders, indirect=True)


# Not every test that is to use it names it, and pytest gives no fixture that no test names.
@pytest.fixture(autouse=True)
def sender(request, monkeypatch):
    """Which sender the test's server uses; None where it does not matter."""
    which = getattr(request, "param", None)
    if which is not None:
        monkeypatch.setattr(server, "HTTP", SENDERS[which])
    return which
