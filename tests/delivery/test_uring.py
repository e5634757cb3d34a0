"""Many sends in one system call, and what each of them says."""

from __future__ import annotations

import errno
import os
import select
import socket
from array import array
from collections.abc import Iterator, Sequence

import pytest

from headwater.delivery._uring import Uring, address_of


@pytest.fixture
def uring() -> Iterator[Uring]:
    try:
        made = Uring(64)
    except OSError as error:
        pytest.skip(f"no io_uring here: {error}")
    yield made
    made.close()


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(50)]
    for here, there in made:
        here.setblocking(False)
        there.setblocking(False)
    yield made
    for pair in made:
        for each in pair:
            each.close()


def send(uring: Uring, sends: Sequence[tuple[int, bytes]]) -> list[int]:
    """What became of each."""
    numbers = array("i", [number for number, _ in sends])
    addresses = array("Q", [address_of(data) for _, data in sends])
    sizes = array("i", [len(data) for _, data in sends])
    return uring.send(numbers, addresses, sizes).tolist()


def test_more_than_one_call_takes_reach_all_in_order(uring, pairs):
    """Around the end of both rings, several times over."""
    given = {here.fileno(): b"" for here, _ in pairs}
    for turn in range(40):
        sends = [
            (here.fileno(), b"%d/%d;" % (turn, at) * (at % 7 + 1))
            for at, (here, _) in enumerate(pairs * 3)
        ]
        assert send(uring, sends) == [len(data) for _, data in sends]
        for number, data in sends:
            given[number] += data
        for here, there in pairs:
            assert there.recv(1 << 20) == given[here.fileno()]
            given[here.fileno()] = b""


def test_each_send_says_what_became_of_it(uring, pairs):
    (full, _), (gone, its), (good, there), (part, reader) = pairs[:4]
    its.close()
    while True:
        try:
            full.send(b"x" * 65536)
        except BlockingIOError:
            break
    large = b"y" * 4_000_000
    nobody = os.open("/dev/null", os.O_WRONLY)
    sends = [(full, b"one"), (gone, b"two"), (good, b"three"), (part, large), (good, b"four")]
    found = send(uring, [(s.fileno(), data) for s, data in sends] + [(nobody, b"five")])
    os.close(nobody)
    assert found[:3] == [-errno.EAGAIN, -errno.EPIPE, 5]
    assert 0 < found[3] < len(large)
    assert found[4:] == [4, -errno.ENOTSOCK]
    assert there.recv(64) == b"threefour"
    got = 0
    while select.select([reader], [], [], 0)[0]:
        got += len(reader.recv(1 << 20))
    assert got == found[3]


def test_nothing_stays_open(uring):
    held = set(os.listdir("/proc/self/fd"))
    one = Uring()
    assert one.usable
    one.close()
    one.close()
    assert not one.usable
    two = Uring()
    del two
    assert set(os.listdir("/proc/self/fd")) == held


def test_a_process_that_was_forked_off_does_not_use_its_parents(uring):
    child = os.fork()
    if not child:
        os._exit(int(uring.usable))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert uring.usable


def test_what_the_kernel_does_not_take_was_not_sent(uring, pairs):
    """It may take only some, as when it is short of memory: a fault that is made up here."""
    real = uring._call

    def stingy(call: int, *arguments: object) -> int:
        number, count, *rest = arguments
        return real(call, number, min(count, 7), *rest)

    uring._call = stingy
    found = send(uring, [(here.fileno(), b"data") for here, _ in pairs])
    assert found == [4] * 7 + [-errno.EAGAIN] * 43
    assert not uring.usable
    for number, (_, there) in enumerate(pairs):
        if number < 7:
            assert there.recv(64) == b"data"
        else:
            with pytest.raises(BlockingIOError):
                there.recv(64)


def test_an_interrupted_one_is_not_used_again(uring, pairs):
    real, (here, there) = uring._call, pairs[0]

    def interrupted(*arguments: object) -> int:
        real(*arguments)
        raise KeyboardInterrupt

    uring._call = interrupted
    with pytest.raises(KeyboardInterrupt):
        send(uring, [(here.fileno(), b"data")])
    assert not uring.usable
    assert there.recv(64) == b"data"
