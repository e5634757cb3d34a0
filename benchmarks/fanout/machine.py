"""The machine: which core runs what, and what the kernel says that a process used."""

from __future__ import annotations

import os
import platform
import resource
import socket
import time
from pathlib import Path

# The server's core and the client's; the same one when there is no other.
_ALLOWED = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = {_ALLOWED[0]}, {_ALLOWED[-1]}


def described() -> str:
    """The machine in a line, with how busy it is."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    python = platform.python_version()
    return f"{platform.platform()}, Python {python}, {os.cpu_count()} CPUs, load {load}"


def pin(to: set[int]) -> None:
    """Run this process, and those it starts from now on, on these cores."""
    os.sched_setaffinity(0, to)


def raise_priority() -> bool:
    """Come before other programs of the machine, with all processes started from now on.

    What else runs would empty the caches again and again. Returns whether it is allowed.
    """
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -15)
        # Where sessions are scheduled as groups, a process's own priority counts only inside.
        group = Path("/proc/self/autogroup")
        if group.exists():
            group.write_text("-15")
    except OSError:
        return False
    return True


def raise_file_limit() -> int:
    """As many open files as the system allows a process; processes started later have it too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def cpu_seconds(pids: list[int]) -> float:
    """What these processes, with all their threads, have used since they began.

    It is the kernel's own sum in nanoseconds (the process clock of ``clock_getcpuclockid``), the
    same that /proc/PID/stat rounds to hundredths of a second.
    """
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def tree(pid: int) -> list[int]:
    """A process and its children of every generation."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def memory(pids: list[int], field: str = "VmRSS") -> int:
    """Bytes of main memory that processes hold; with ``VmHWM`` the most they held."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                total += int(line.split()[1]) * 1024
    return total


def forget_peak(pids: list[int]) -> None:
    """Let ``VmHWM`` begin anew."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def settle(pids: list[int], limit: float = 10.0) -> None:
    """Wait until processes have nothing more to do: under 5 % of a core for 0.2 s."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        before = cpu_seconds(pids)
        time.sleep(0.2)
        if cpu_seconds(pids) - before < 0.01:
            return


def queued(port: int) -> int:
    """Bytes that the kernel holds for clients of this port and could not send yet, the most of
    one connection."""
    most = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, _, queues, *_ = line.split()
        if int(local.partition(":")[2], 16) == port:
            most = max(most, int(queues.partition(":")[0], 16))
    return most


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now, neither for TCP nor for UDP."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def description() -> str:
    """The machine in one line."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return (
        f"{os.cpu_count()} cores of {model}, {memory_kb / 1024**2:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )
