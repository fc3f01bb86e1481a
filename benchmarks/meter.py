"""What work costs beside time: processor seconds of both sides, and bytes.

A store is asked before and after; who measures must let it come to rest himself. Measures nothing
by itself: `timed` and `costs` are what scenarios call.

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

TICKS = os.sysconf("SC_CLK_TCK")


class Store(Protocol):
    """A server, as far as it can be metered."""

    def processes(self) -> list[int]:
        """The server's processes; none if it is not ours."""

    def sizes(self) -> dict[str, int]:
        """Bytes that it holds, by kind: "log" and "data" on disk, "memory"."""


@dataclass(slots=True)
class Spent:
    """What was spent in a block; complete when it has ended.

    Attributes:
        seconds: of the clock.
        client: processor seconds of this process and the processes that it started.
        server: processor seconds of the store; None if it cannot be seen.
        sizes: bytes by which each kind has grown.
    """

    seconds: float = 0.0
    client: float = 0.0
    server: float | None = None
    sizes: dict[str, int] = field(default_factory=dict)

    def figures(self, events: int) -> dict[str, float]:
        """By the names that reports use: for each event, and events a second.

        Args:
            events: how many events, calls or transactions the block was for.
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
    """Make some calls one after another; what each one took, in nanoseconds.

    Args:
        call: what to time.
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
        sizes: ask it for its bytes too, which may take milliseconds.
    """
    spent = Spent()
    sized = store if sizes else None
    size = sized.sizes() if sized else {}
    ours, theirs = [os.getpid(), *children(os.getpid())], store.processes() if store else []
    # The server may be a child of ours.
    ours = [pid for pid in ours if pid not in theirs]
    client, server, start = cpu_seconds(ours), cpu_seconds(theirs), time.perf_counter()
    try:
        yield spent
    finally:
        spent.seconds = time.perf_counter() - start
        spent.client = cpu_seconds(ours) - client
        if theirs and store is not None:
            # Connections that were opened meanwhile are new processes.
            spent.server = cpu_seconds(store.processes()) - server
        after = sized.sizes() if sized else {}
        spent.sizes = {kind: after[kind] - size[kind] for kind in size if kind in after}


def cpu_seconds(pids: Iterable[int]) -> float:
    """The processor time of some processes.

    To the nanosecond where the kernel tells it for each thread; then what a thread has used that
    ended meanwhile is not in it. Elsewhere in ticks of about 10 ms.
    """
    return sum(map(_cpu_seconds, pids))


def _cpu_seconds(pid: int) -> float:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        # The name in parentheses may hold anything, blanks too.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / TICKS
    return 0.0


def children(pid: int) -> list[int]:
    """A process's descendants; none where there is no /proc."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *children(int(child))]
    return found
