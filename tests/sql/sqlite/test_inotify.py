"""What the kernel tells of files, and what ends a watch."""

import sys

import pytest

from headwater.sql.sqlite.schedule import Inotify

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "data.db"


@pytest.fixture
def inotify(file):
    inotify = Inotify((str(file), f"{file}-wal"))
    yield inotify
    inotify.close()


def test_a_write_is_told_once_the_file_is_watched(inotify, file):
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


def test_the_end_of_a_watch_is_not_news_for_ever(inotify, file):
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
