"""Positions that outlive the program: kept once what came before them was handled."""

import asyncio
import os
import stat

import pytest

import headwater.client
import headwater.client.sync
from headwater.client._positions import PositionFile
from headwater.errors import UsageError


def event(number):
    return f"id: {number}\ndata: {number}\n\n".encode()


async def test_a_program_that_is_started_again_goes_on_where_it_was(client, server, tmp_path):
    path = tmp_path / "position"
    server.script(server.stream(event(1), event(2)), server.answer(204))
    server.script(server.stream(event(3)))
    first, _, _ = await client.messages(server.url, position_file=path)
    assert path.read_text() == "2\n"
    second, _, _ = await client.messages(server.url, position_file=str(path))
    assert [message.data for message in first + second] == ["1", "2", "3"]
    assert [seen.position for seen in server.seen] == [None, "2", "2", "3"]


async def test_what_was_not_handled_comes_again(client, server, tmp_path):
    """The position is kept when the next message is asked for, not when one is handed over."""
    path = tmp_path / "position"
    kept = []
    server.script(server.stream(event(1) + event(2) + event(3), server.HOLD))
    got = []

    async def fail():
        async with client.opened("stream", server.url, **options) as messages:
            async for message in messages:
                got.append((message.data, list(kept)))
                if message.data == "2":
                    raise RuntimeError

    def fail_in_thread():
        with client.opened("stream", server.url, **options) as messages:
            for message in messages:
                got.append((message.data, list(kept)))
                if message.data == "2":
                    raise RuntimeError

    options = {"position_file": path, "on_position": kept.append}
    asynchronous = hasattr(client.opened("stream", server.url), "aclose")
    with pytest.raises(RuntimeError):
        await (fail() if asynchronous else asyncio.to_thread(fail_in_thread))
    assert got == [("1", []), ("2", ["1"])]
    assert kept == ["1"]
    assert path.read_text() == "1\n"


async def test_leaving_the_with_block_without_an_error_counts_as_handled(client, server, tmp_path):
    path = tmp_path / "position"
    server.script(server.stream(event(1) + event(2), server.HOLD))
    await client.messages(server.url, count=1, position_file=path)
    assert path.read_text() == "1\n"


async def test_a_block_that_only_moves_the_position_is_kept_too(client, server, tmp_path):
    path = tmp_path / "position"
    server.script(server.stream(event(1), b"id: 2\n\n"))
    await client.messages(server.url, position_file=path)
    assert path.read_text() == "2\n"


async def test_a_coroutine_function_may_keep_the_position(server):
    kept = []

    async def keep(position):
        await asyncio.sleep(0)
        kept.append(position)

    server.script(server.stream(event(1), event(2)))
    async with headwater.client.stream(server.url, on_position=keep) as messages:
        assert len([message async for message in messages]) == 2
    assert kept == ["1", "2"]


async def test_a_position_that_is_given_wins_over_the_file(client, server, tmp_path):
    path = tmp_path / "position"
    path.write_text("7\n")
    await client.messages(server.url, position_file=path, last_event_id="8")
    assert server.seen[0].position == "8"
    assert path.read_text() == "8\n"


def test_a_position_is_there_as_a_whole_or_not_at_all(tmp_path):
    file = PositionFile(tmp_path / "position")
    assert file.load() == ""
    for position in ("ключ", " a ", "x" * 2048):
        file.save(position)
        assert file.load() == position
    assert os.listdir(tmp_path) == ["position"]


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb\n", b"\xff", b"a\0", b"x" * 70_000])
def test_a_file_that_holds_no_position_is_an_error_and_no_new_beginning(tmp_path, content):
    """A power cut may leave an empty file: to begin anew would leave items out without a word."""
    path = tmp_path / "position"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="position file"):
        headwater.client.stream("http://h/", position_file=path)


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="there is no folder"):
        headwater.client.stream("http://h/", position_file=tmp_path / "no" / "position")
    with pytest.raises(UsageError, match="position file"):
        headwater.client.stream("http://h/", position_file=tmp_path)


def test_a_position_that_cannot_be_written_is_an_error_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "position"
    file = PositionFile(path)
    file.save("1")
    path.unlink()
    path.mkdir(mode=stat.S_IRWXU)
    with pytest.raises(UsageError, match="cannot be used"):
        file.save("2")
    assert os.listdir(tmp_path) == ["position"]
