"""The contract of ``append``, ``read``, ``latest`` and ``bounds``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from headwater.errors import UsageError
from headwater.eventlog import START, EventLog, Offset
from headwater.testing._eventlog._harness import Harness, Recorder, numbers, read_all

ODD_DATA: list[dict[str, Any]] = [
    {},
    {"text": "Grüße, 日本語, 🛰️, \u2028, e\u0301"},
    {"lines": "a\nb\r\nc\rd", "nul": "\u0000", "quote": "\"'\\", "tab": "\t"},
    {"none": None, "yes": True, "no": False, "zero": 0, "minus": -0.5},
    {"big": 2**70, "small": 5e-324, "third": 1 / 3, "large": 1.7976931348623157e308},
    {"nested": {"list": [1, [2, {"three": [3]}], {}], "empty": []}, "": "no name"},
    {"id": "my own", "at": "never", "key": "k", "topic": "t", "offset": 5},
]

BAD_DATA: list[tuple[str, Any]] = [
    ("NaN", {"value": float("nan")}),
    ("infinity", {"value": float("inf")}),
    ("no JSON", {"value": {1, 2}}),
    ("a name that is no string", {"value": {1: "one"}}),
    ("a lone surrogate", {"value": "\ud800"}),
    ("a string", "text"),
    ("bytes", b"text"),
    ("None", None),
    ("a number", 7),
    ("a list of a list", [[1]]),
    ("a list with one bad event", [{"n": 1}, {"n": 2}, {"n": float("nan")}]),
]

BAD_TOPICS: list[Any] = ["", "a b", "a\n", "ä", "a" * 201, "a*", "a>", "a\u0000", None, 7]
BAD_KEYS: list[Any] = ["", "a b", "a\n", "ä", "k" * 201, 7]


class AppendingContract(Harness):
    """Order, atomic batches, idempotent keys, what is kept and what is refused."""

    async def test_records_are_read_in_the_order_they_were_appended(self, log: EventLog) -> None:
        """A feed shows events in the order in which they were accepted."""
        returned = [(await log.append("t", {"n": n}))[0] for n in range(30)]
        assert await read_all(log, "t") == returned, "what is read is not what append returned"
        offsets = [record.offset for record in returned]
        assert offsets == sorted(set(offsets)), f"offsets do not rise: {offsets}"
        assert offsets[0] > START, "START is not before the first record"

    async def test_a_batch_keeps_together(self, log: EventLog) -> None:
        """Events of one append are next to each other, however many append at once."""
        batches = [[{"n": [batch, part]} for part in range(7)] for batch in range(20)]
        await asyncio.gather(*(log.append("t", batch) for batch in batches))
        seen = numbers(await read_all(log, "t"))
        assert len(seen) == 140, f"140 events were appended and {len(seen)} are read"
        for start in range(0, 140, 7):
            batch = seen[start][0]
            expected = [[batch, part] for part in range(7)]
            assert seen[start : start + 7] == expected, "batches are interleaved"

    async def test_an_empty_batch_appends_nothing(self, log: EventLog) -> None:
        """A caller need not ask whether it has anything to say."""
        assert await log.append("t", []) == [], "an empty batch has no records"
        assert (await log.bounds("t")).latest == START, "an empty batch took an offset"

    async def test_a_retry_with_the_same_key_appends_nothing(self, log: EventLog) -> None:
        """After a lost answer a caller sends the same again, and nothing is doubled."""
        await log.append("t", {"n": 0})
        first = await log.append("t", [{"n": 1}, {"n": 2}], key="order-7")
        await log.append("t", {"n": 3})
        again = await log.append("t", [{"n": 1}, {"n": 2}], key="order-7")
        assert again == first, "a retry must return the first records"
        assert {record.key for record in first} == {"order-7"}, "records carry their key"
        seen = numbers(await read_all(log, "t"))
        assert seen == [0, 1, 2, 3], f"a retry appended something: {seen}"

    async def test_a_key_belongs_to_its_topic(self, log: EventLog) -> None:
        """Two topics may use the same key for different things."""
        await log.append("t", {"n": 1}, key="k")
        await log.append("u", {"n": 2}, key="k")
        assert numbers(await read_all(log, "u")) == [2], "a key of another topic counted"

    async def test_simultaneous_retries_append_once(self, log: EventLog) -> None:
        """Two workers that send the same thing at the same time double nothing."""
        returned = await asyncio.gather(
            *(log.append("t", [{"n": 1}, {"n": 2}], key="k") for _ in range(10))
        )
        seen = numbers(await read_all(log, "t"))
        assert seen == [1, 2], f"one key was appended more than once: {seen}"
        assert all(records == returned[0] for records in returned), "callers got different records"

    async def test_data_comes_back_as_it_was(self, log: EventLog) -> None:
        """Every character and number of an event survives."""
        returned = await log.append("t", ODD_DATA)
        for sent, record, kept in zip(ODD_DATA, returned, await read_all(log, "t"), strict=True):
            assert record.data == sent, f"append returned {record.data!r} for {sent!r}"
            assert kept.data == sent, f"{sent!r} came back as {kept.data!r}"

    async def test_what_the_caller_changes_later_is_not_changed_in_the_log(
        self, log: EventLog
    ) -> None:
        """A dictionary that is used again does not rewrite history."""
        data = {"n": 1, "tags": ["a"]}
        await log.append("t", data)
        data["tags"] = ["changed"]
        data["n"] = 2
        assert (await read_all(log, "t"))[0].data == {"n": 1, "tags": ["a"]}, "it was changed"

    async def test_records_say_when_they_were_appended(self, log: EventLog) -> None:
        """``at`` is UTC and about now."""
        (record,) = await log.append("t", {"n": 1})
        assert record.at.utcoffset() == timedelta(0), f"{record.at} is not UTC"
        apart = abs(datetime.now(UTC) - record.at)
        assert apart < timedelta(seconds=60), f"at is {apart} from this clock"

    async def test_an_event_at_the_bound_is_kept_and_one_beyond_is_refused(
        self, log: EventLog
    ) -> None:
        """Too large an event is an error with the bound in it, and nothing is appended."""
        room = log.max_event_bytes - len('{"n":""}')
        await log.append("t", {"n": "x" * room})
        with pytest.raises(UsageError, match=str(log.max_event_bytes)):
            await log.append("t", [{"n": 1}, {"n": "x" * (room + 1)}])
        kept = await read_all(log, "t")
        assert len(kept) == 1, f"{len(kept)} events are kept; the large one alone was right"

    async def test_a_batch_at_the_bound_is_kept_and_one_beyond_is_refused(
        self, log: EventLog
    ) -> None:
        """One append cannot hold up all others without bound."""
        most = log.capabilities.max_batch
        with pytest.raises(UsageError, match=str(most)):
            await log.append("t", ({"n": n} for n in range(most + 1)))
        assert (await log.bounds("t")).latest == START, "a refused batch appended something"
        records = await log.append("t", ({"n": n} for n in range(most)))
        assert numbers(records) == list(range(most)), f"{len(records)} of {most} are kept"

    async def test_bad_events_are_refused_and_nothing_is_appended(self, log: EventLog) -> None:
        """What is not JSON is refused at the door, the whole batch with it."""
        for what, data in BAD_DATA:
            await self._refused(log.append("t", data), what)
        assert (await log.bounds("t")).latest == START, "a refused append left something"

    async def test_bad_names_and_keys_are_refused(self, log: EventLog) -> None:
        """Every engine takes the same names, so that a log can move to another one."""
        for topic in BAD_TOPICS:
            await self._refused(log.append(topic, {"n": 1}), f"{topic!a}")
            await self._refused(log.read(topic, START, 1), f"{topic!a}")
            await self._refused(log.latest(topic, 1), f"{topic!a}")
            await self._refused(log.bounds(topic), f"{topic!a}")
            await self._refused(log.follow(topic, Recorder()), f"{topic!a}")
            await self._refused(log.forget(topic), f"{topic!a}")
            if topic is not None:  # that is all topics
                await self._refused(log.trim(topic, max_count=0), f"{topic!a}")
        for key in BAD_KEYS:
            await self._refused(log.append("t", {"n": 1}, key=key), f"{key!a}")
        for topic in ("a", "satellite:7/metrics", "A.b-c_d@e", "t" * 200):
            assert numbers(await log.append(topic, {"n": 1}, key="!" * 200)) == [1], topic

    async def test_a_transaction_is_joined_or_refused(self, log: EventLog) -> None:
        """An engine that cannot join the caller's transaction says so and does not ignore it."""
        if log.capabilities.transactional:
            pytest.skip("joining is tested with the engine's own database")
        call = log.append("t", {"n": 1}, connection=object())
        await self._refused(call, "a connection")

    async def _refused(self, call: Awaitable[Any], what: str) -> None:
        try:
            await call
        except UsageError as error:
            assert str(error), f"{what}: the error says nothing"
        else:
            raise AssertionError(f"{what} was accepted")


class ReadingContract(Harness):
    """Pages in both directions, and what a topic says of itself."""

    async def test_reading_after_an_offset_gives_just_what_follows(self, log: EventLog) -> None:
        """A client that resumes gets what it has not had: nothing twice, nothing left out."""
        records = await log.append("t", [{"n": n} for n in range(10)])
        for have, record in enumerate(records):
            run = await log.read("t", record.offset, 100)
            seen = numbers(run.records)
            assert seen == list(range(have + 1, 10)), f"after {have} came {seen}"
        run = await log.read("t", records[1].offset, 3)
        assert numbers(run.records) == [2, 3, 4], "the first after an offset, not the last"
        assert run.bounds.latest == records[-1].offset, "bounds are of the same moment"

    async def test_the_latest_records_oldest_first(self, log: EventLog) -> None:
        """A snapshot shows the newest events in the order in which they happened."""
        await log.append("t", [{"n": n} for n in range(10)])
        seen = numbers((await log.latest("t", 3)).records)
        assert seen == [7, 8, 9], f"the latest 3 of 0 to 9 were {seen}"
        seen = numbers((await log.latest("t", 100)).records)
        assert seen == list(range(10)), f"all of them were {seen}"

    async def test_a_page_is_full_unless_the_topic_ends(self, log: EventLog) -> None:
        """A reader that gets fewer than it asked for has all of them."""
        await log.append("t", [{"n": n} for n in range(300)], key="k")
        for page in (await log.read("t", START, 299), await log.latest("t", 299)):
            assert len(page.records) == 299, f"{len(page.records)} of 299 came"
            assert {record.key for record in page.records} == {"k"}, "records lack their key"

    async def test_paging_back_gives_each_record_once(self, log: EventLog) -> None:
        """Scrolling up through history, page by page, meets everything once."""
        await log.append("t", [{"n": n} for n in range(25)])
        pages, before = [], None
        while records := (await log.latest("t", 7, before)).records:
            pages.append(numbers(records))
            before = records[0].offset
        assert [len(page) for page in pages] == [7, 7, 7, 4], "pages are not full"
        seen = [number for page in reversed(pages) for number in page]
        assert seen == list(range(25)), f"paging back gave {seen}"

    async def test_topics_are_apart(self, log: EventLog) -> None:
        """One topic's events never show in another, whose name may begin alike."""
        for topic in ("a", "ab", "A", "a:b"):
            await log.append(topic, {"n": topic})
        for topic in ("a", "ab", "A", "a:b"):
            run = await log.read(topic, START, 10)
            assert numbers(run.records) == [topic], f"{topic} holds {numbers(run.records)}"
            assert {record.topic for record in run.records} == {topic}, "a wrong topic's name"

    async def test_a_topic_that_never_was_is_empty(self, log: EventLog) -> None:
        """A feed of a satellite that has not reported yet is an empty feed, not an error."""
        bounds = await log.bounds("never")
        assert bounds.earliest == bounds.latest == START, f"{bounds} of an unknown topic"
        for run in (await log.read("never", START, 5), await log.latest("never", 5)):
            assert not run.records, "an unknown topic holds records"
            assert run.bounds == bounds, "bounds() and a read differ"

    async def test_bounds_tell_what_can_be_resumed(self, log: EventLog) -> None:
        """``earliest <= offset <= latest`` is what a client's position is checked with."""
        records = await log.append("t", [{"n": n} for n in range(5)])
        bounds = await log.bounds("t")
        assert bounds.earliest == START, "nothing was trimmed: START can be resumed at"
        assert bounds.latest == records[-1].offset, "latest is the last record's offset"
        assert re.fullmatch("[0-9A-Za-z]{1,40}", bounds.epoch), f"epoch {bounds.epoch!r}"
        assert (await log.bounds("u")).epoch == bounds.epoch, "the epoch is the whole log's"

    async def test_an_offset_is_its_text(self, log: EventLog) -> None:
        """Offsets travel as text in positions and come back the same."""
        for record in await log.append("t", [{"n": 1}, {"n": 2}]):
            text = str(record.offset)
            assert Offset.parse(text) == record.offset, f"{text} reads as another offset"

    async def test_a_far_offset_is_no_error(self, log: EventLog) -> None:
        """An invented position must not break the engine."""
        await log.append("t", {"n": 1})
        far = Offset.parse("99999999999999999999")
        assert not (await log.read("t", far, 5)).records, "there is nothing after it"
        assert numbers((await log.latest("t", 5, far)).records) == [1], "all is before it"
