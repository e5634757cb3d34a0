"""When the file is looked at, and what Linux reports of it."""

import sys
import threading
import time

import pytest

from headwater.sql.sqlite._file_watch import Inotify, Schedule

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "data.db"


@pytest.fixture
def inotify(file):
    inotify = Inotify((str(file), f"{file}-wal"))
    yield inotify
    inotify.close()


def test_a_write_is_reported_once_the_file_is_watched(inotify, file):
    assert not inotify.renew()
    file.write_bytes(b"x")
    assert not inotify.read()
    assert inotify.renew()
    file.write_bytes(b"y")
    assert inotify.read()
    assert not inotify.read()


@pytest.mark.parametrize("gone", ["unlink", "rename", "replace"])
def test_another_file_at_the_path_is_watched(inotify, file, tmp_path, gone):
    file.write_bytes(b"x")
    inotify.renew()
    other = tmp_path / "other.db"
    with file.open("ab"):  # the database has it open
        if gone == "unlink":
            file.unlink()
        elif gone == "rename":
            file.rename(other)
        else:
            other.write_bytes(b"y")
            other.replace(file)
        assert inotify.read()
        file.write_bytes(b"z")
        assert inotify.renew()
        file.write_bytes(b"more")
        assert inotify.read()


def test_the_end_of_a_watch_is_reported_once(inotify, file):
    """Watching anew because of it would end one again: a thread that never rests."""
    file.write_bytes(b"x")
    inotify.renew()
    inotify.forget()
    assert inotify.renew()
    inotify.read()
    assert not inotify.renew()
    assert not inotify.read()


def test_a_closed_one_is_closed_once(inotify):
    inotify.close()
    inotify.close()
    assert inotify.fileno() == -1


def test_a_busy_writer_makes_no_busy_thread(tmp_path):
    """A lower bound of time: a slow machine only takes longer."""
    file = tmp_path / "data.db"
    file.touch()
    looks, done = Schedule(str(file), 600.0, lambda: False), threading.Event()

    def write():
        with file.open("ab", buffering=0) as it:
            while not done.is_set():
                it.write(b"x")

    writer = threading.Thread(target=write)
    writer.start()
    began = time.monotonic()
    for _ in range(100):
        assert looks.wait()
        looks.looked(changed=True)
    done.set()
    writer.join()
    looks.close()
    assert time.monotonic() - began > 0.15


def test_what_this_process_writes_gives_no_hint_until_it_is_committed(tmp_path):
    """Its commit wakes the tail by itself."""
    file = tmp_path / "data.db"
    file.touch()
    asked, enough, writing = [], threading.Event(), True

    def own():
        asked.append(1)
        if len(asked) == 5:
            enough.set()
        return writing

    looks = Schedule(str(file), 600.0, own)
    file.write_bytes(b"x")
    done = []
    waiting = threading.Thread(target=lambda: done.append(looks.wait()))
    waiting.start()
    assert enough.wait(10)
    assert not done
    writing = False
    waiting.join(10)
    assert (done, looks.hinted) == ([True], True)
    looks.close()
