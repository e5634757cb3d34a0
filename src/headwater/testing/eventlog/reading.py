"""The contract of ``read``, ``latest`` and ``bounds``."""

from __future__ import annotations

import re

from headwater.eventlog.record import START, Offset
from headwater.testing.eventlog.harness import Harness, numbers

__all__ = ["ReadingContract"]


class ReadingContract(Harness):
    """Pages in both directions, and what a topic says of itself."""

    async def test_reading_after_an_offset_gives_just_what_follows(self) -> None:
        """A client that resumes gets what it has not had: nothing twice, nothing left out."""
        async with self.opened() as log:
            records = await log.append("t", [{"n": n} for n in range(10)])
            for have, record in enumerate(records):
                run = await log.read("t", record.offset, 100)
                seen = numbers(run.records)
                assert seen == list(range(have + 1, 10)), f"after {have} came {seen}"
            run = await log.read("t", records[1].offset, 3)
            assert numbers(run.records) == [2, 3, 4], "the first after an offset, not the last"
            assert run.bounds.latest == records[-1].offset, "bounds are of the same moment"

    async def test_the_latest_records_oldest_first(self) -> None:
        """A snapshot shows the newest events in the order in which they happened."""
        async with self.opened() as log:
            await log.append("t", [{"n": n} for n in range(10)])
            seen = numbers((await log.latest("t", 3)).records)
            assert seen == [7, 8, 9], f"the latest 3 of 0 to 9 were {seen}"
            seen = numbers((await log.latest("t", 100)).records)
            assert seen == list(range(10)), f"all of them were {seen}"

    async def test_paging_back_gives_each_record_once(self) -> None:
        """Scrolling up through history, page by page, meets everything once."""
        async with self.opened() as log:
            await log.append("t", [{"n": n} for n in range(25)])
            pages, before = [], None
            while records := (await log.latest("t", 7, before)).records:
                pages.append(numbers(records))
                before = records[0].offset
            assert [len(page) for page in pages] == [7, 7, 7, 4], "pages are not full"
            seen = [number for page in reversed(pages) for number in page]
            assert seen == list(range(25)), f"paging back gave {seen}"

    async def test_topics_are_apart(self) -> None:
        """One topic's events never show in another, whose name may begin alike."""
        async with self.opened() as log:
            for topic in ("a", "ab", "A", "a:b"):
                await log.append(topic, {"n": topic})
            for topic in ("a", "ab", "A", "a:b"):
                run = await log.read(topic, START, 10)
                assert numbers(run.records) == [topic], f"{topic} holds {numbers(run.records)}"
                assert {record.topic for record in run.records} == {topic}, "a wrong topic's name"

    async def test_a_topic_that_never_was_is_empty(self) -> None:
        """A feed of a satellite that has not reported yet is an empty feed, not an error."""
        async with self.opened() as log:
            bounds = await log.bounds("never")
            assert bounds.earliest == bounds.latest == START, f"{bounds} of an unknown topic"
            for run in (await log.read("never", START, 5), await log.latest("never", 5)):
                assert not run.records, "an unknown topic holds records"
                assert run.bounds == bounds, "bounds() and a read differ"

    async def test_bounds_tell_what_can_be_resumed(self) -> None:
        """``earliest <= offset <= latest`` is what a client's position is checked with."""
        async with self.opened() as log:
            records = await log.append("t", [{"n": n} for n in range(5)])
            bounds = await log.bounds("t")
            assert bounds.earliest == START, "nothing was trimmed: START can be resumed at"
            assert bounds.latest == records[-1].offset, "latest is the last record's offset"
            assert re.fullmatch("[0-9A-Za-z]{1,40}", bounds.epoch), f"epoch {bounds.epoch!r}"
            assert (await log.bounds("u")).epoch == bounds.epoch, "the epoch is the whole log's"

    async def test_an_offset_is_its_text(self) -> None:
        """Offsets travel as text in positions and come back the same."""
        async with self.opened() as log:
            for record in await log.append("t", [{"n": 1}, {"n": 2}]):
                text = str(record.offset)
                assert Offset.parse(text) == record.offset, f"{text} reads as another offset"

    async def test_a_far_offset_is_no_error(self) -> None:
        """An invented position must not break the engine."""
        async with self.opened() as log:
            await log.append("t", {"n": 1})
            far = Offset.parse("99999999999999999999")
            assert not (await log.read("t", far, 5)).records, "there is nothing after it"
            assert numbers((await log.latest("t", 5, far)).records) == [1], "all is before it"
