"""Meter the cost of work beside time: processor seconds of both sides, and bytes.

The store is queried before and after the block. The caller must wait until the store is idle.
Scenarios call `timed` and `costs`.

    with costs(store) as spent:
        times = timed(call, arguments)
    audit …
    return Sample(…, figures=spent.figures(events=len(arguments)), times=histogram(times))
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")

SERVERS = ("postgres", "redis-server", "valkey-server")
"""Names of programs that are no clients, even if this process started them."""
TICKS = os.sysconf("SC_CLK_TCK")


class Store(Protocol):
    """Define a server, as far as it can be metered."""

    def processes(self) -> list[int]:
        """Return the server's processes; none if it is the caller's own."""

    def sizes(self) -> dict[str, int]:
        """Return the bytes that it holds, by kind: "log" and "data" on disk, "memory"."""


@dataclass(slots=True)
class Spent:
    """Hold what was spent in a block; complete when the block has ended.

    Attributes:
        seconds: elapsed time.
        client: processor seconds of this process and the processes that it started.
        server: processor seconds of the store; None if they cannot be read.
        sizes: bytes by which each kind has grown.
    """

    seconds: float = 0.0
    client: float = 0.0
    server: float | None = None
    sizes: dict[str, int] = field(default_factory=dict)

    def figures(self, events: int) -> dict[str, float]:
        """Return the costs per event and the events per second, by the names of the reports.

        Args:
            events: the number of events, calls or transactions of the block.
        """
        found = {
            "per second": events / self.seconds if self.seconds else 0.0,
            "client CPU, µs each": self.client / events * 1e6,
        }
        if self.server is not None:
            found["server CPU, µs each"] = self.server / events * 1e6
        for kind, grown in self.sizes.items():
            found[f"{kind}, B each"] = grown / events
        return found


def timed(call: Callable[[T], object], arguments: Sequence[T]) -> list[int]:
    """Make calls one after another; return the time of each one in nanoseconds.

    Args:
        call: the function to time.
        arguments: one for each call.
    """
    clock = time.perf_counter_ns
    times = []
    for argument in arguments:
        start = clock()
        call(argument)
        times.append(clock() - start)
    return times


@contextlib.contextmanager
def costs(store: Store | None = None, *, sizes: bool = True) -> Iterator[Spent]:
    """Meter a block: this process, its children, and a store.

    Args:
        store: the server that works for the block; None for the clients alone.
        sizes: also query its bytes, which may take milliseconds.
    """
    spent = Spent()
    sized = store if sizes else None
    size = sized.sizes() if sized else {}
    ours, theirs = _ours(), store.processes() if store else []
    # Reading the server's processes takes time, which must not count as the client's.
    server, client, start = cpu_seconds(theirs), cpu_seconds(ours), time.perf_counter()
    try:
        yield spent
    finally:
        spent.seconds = time.perf_counter() - start
        spent.client = cpu_seconds(ours) - client
        if theirs and store is not None:
            # Connections that were opened in the block are new processes.
            spent.server = cpu_seconds(store.processes()) - server
        after = sized.sizes() if sized else {}
        spent.sizes = {kind: after[kind] - size[kind] for kind in size if kind in after}


def _ours() -> list[int]:
    """Return this process and its workers, without any server."""
    found = [os.getpid()]
    for pid in children(os.getpid()):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() not in SERVERS:
                found.append(pid)
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the processor time of some processes, and of their children that have ended.

    It needs /proc. The resolution is a nanosecond; for ended children it is a tick of 10 ms.
    """
    seconds = 0.0
    for pid in pids:
        # A process may end at any moment.
        with contextlib.suppress(OSError):
            # The name in parentheses may contain any character, including blanks.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            # The clock id of another process, as clock_getcpuclockid(3) computes it.
            seconds += time.clock_gettime(~pid << 3 | 2) + sum(map(int, fields[13:15])) / TICKS
    return seconds


def children(pid: int) -> list[int]:
    """Return a process's descendants; none if there is no /proc."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *children(int(child))]
    return found
