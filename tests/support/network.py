"""Hosts that share nothing but a network: network namespaces, joined by virtual cables.

A thread enters a namespace and leaves it again. The sockets and programs that it makes meanwhile
stay on that host. This machine's own network does not change. The namespaces have no names, so the
kernel removes them when the process ends.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"


class Unavailable(Exception):
    """This machine has no network namespaces, or this user may not make them."""


# os.unshare and os.setns came with Python 3.12.
def _call(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:
        raise Unavailable(f"this system has no {name}()")
    if function(*arguments):
        raise Unavailable(f"{name}(): {os.strerror(ctypes.get_errno())}")


class Host:
    """A network stack of its own.

    Attributes:
        address: where the others find it; of the hub, the address of its end of the first cable.
    """

    def __init__(self) -> None:
        self.address = ""
        before = os.open(_OWN, os.O_RDONLY)
        try:
            _call("unshare", _CLONE_NEWNET)
            self._namespace = os.open(_OWN, os.O_RDONLY)
            _call("setns", before, _CLONE_NEWNET)
        finally:
            os.close(before)
        self.configure("link set lo up")

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self._namespace}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Puts this thread on the host until the block ends. The block must not await anything."""
        before = os.open(_OWN, os.O_RDONLY)
        try:
            _call("setns", self._namespace, _CLONE_NEWNET)
            try:
                yield
            finally:
                _call("setns", before, _CLONE_NEWNET)
        finally:
            os.close(before)

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function on the host."""
        with self.entered():
            return function(*args, **kwargs)

    def configure(self, command: str) -> None:
        """Run ``ip`` on the host."""
        done = self.run(
            subprocess.run, ["ip", *command.split()], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Unavailable(f"ip {command}: {done.stderr.strip()}")

    def close(self) -> None:
        """Let the kernel remove the host once no program and no socket is left on it."""
        os.close(self._namespace)


@contextmanager
def network(hosts: int) -> Iterator[tuple[Host, list[Host]]]:
    """A hub and hosts: each host has a cable to the hub, and reaches no other host.

    Raises Unavailable.
    """
    if shutil.which("ip") is None:
        raise Unavailable("there is no `ip` (Debian's iproute2)")
    made: list[Host] = []
    try:
        made.append(hub := Host())
        hub.address = "10.99.1.1"
        for number in range(1, hosts + 1):
            made.append(host := Host())
            host.address = f"10.99.{number}.2"
            hub.configure(f"link add to{number} type veth peer name eth0 netns {host.path}")
            hub.configure(f"address add 10.99.{number}.1/24 dev to{number}")
            hub.configure(f"link set to{number} up")
            host.configure(f"address add {host.address}/24 dev eth0")
            host.configure("link set eth0 up")
            host.configure(f"route add default via 10.99.{number}.1")
        yield hub, made[1:]
    finally:
        for host in made:
            host.close()
