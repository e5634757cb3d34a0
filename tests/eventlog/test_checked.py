"""Arguments that cannot work: every engine refuses them alike, before it is asked."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from headwater.errors import UsageError
from headwater.eventlog import START, EventLog, MemoryLog, Offset

Calls = Callable[[EventLog], Awaitable[Any]]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda log: log.read("t", "5", 1), "offset '5'"),
        (lambda log: log.read("t", None, 1), "offset None"),
        (lambda log: log.read("t", Offset(), 1), "Offset()"),
        (lambda log: log.read("t", Offset.of(-1), 1), "Offset(-1)"),
        (lambda log: log.read("t", Offset.of(True), 1), "offset Offset(True)"),
        (lambda log: log.read("t", START, "5"), "limit '5'"),
        (lambda log: log.read("t", START, True), "limit True"),
        (lambda log: log.read("t", START, 1.5), "limit 1.5"),
        (lambda log: log.latest("t", 1, 5), "offset 5"),
        (lambda log: log.follow("t", None), "follower None"),
        (lambda log: log.follow("t", print), "follower <built-in function print>"),
        (lambda log: log.trim("t", before="5"), "offset '5'"),
        (lambda log: log.trim("t", max_age=5), "max_age=5: give a timedelta"),
        (lambda log: log.trim("t", max_count=1.5), "max_count=1.5: give a whole number"),
        (lambda log: log.trim("t", max_count=True), "max_count=True: give a whole number"),
        (lambda log: log.trim("t", max_bytes=2**63), "max_bytes=9223372036854775808"),
    ],
)
async def test_an_argument_of_another_kind_is_named(call: Calls, said: str) -> None:
    log = MemoryLog()
    await log.append("t", {"n": 1})
    with pytest.raises(UsageError) as caught:
        await call(log)
    assert said in str(caught.value)
    assert len((await log.latest("t", 9)).records) == 1
