"""Describe the machine, versions and settings, and measure the cost of an fsync.

This module also pins servers and clients to different processors, if there are enough of them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import psycopg

PINNED_FROM = 4
"""With fewer processors than these, pinning would starve one side."""
PACKAGES = (
    "pgmem-agents",
    "psycopg",
    "orjson",
    "pydantic",
    "redis",
    "hiredis",
    "hdrhistogram",
)


def fsync_microseconds(folder: Path | None = None, times: int = 200) -> float:
    """Return the median time to append 8 kB to a file and fsync it, in microseconds.

    Args:
        folder: on the file system to measure; None for that of temporary files.
        times: the number of appends.
    """
    page = os.urandom(8192)
    took = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(times):
            start = time.perf_counter_ns()
            file.write(page)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter_ns() - start)
    return statistics.median(took) / 1_000


def describe() -> dict[str, str]:
    """Return the facts about the machine and the versions of the software on it."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    load = os.getloadavg()
    return {
        "processor": _processor(),
        "cores": _cores(),
        "load before": f"{load[0]:.2f} {load[1]:.2f} {load[2]:.2f}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "psycopg implementation": psycopg.pq.__impl__,
        **versions,
    }


def _cores() -> str:
    parted = halves()
    if parted is not None:
        return f"{len(parted[0])} for clients, {len(parted[1])} for servers"
    count = len(_usable()) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{count}, shared by clients and servers"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def halves() -> tuple[set[int], set[int]] | None:
    """Return the processors of clients and of servers; None if there are too few to divide."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    usable = sorted(_usable())
    if len(usable) < PINNED_FROM:
        return None
    return set(usable[: len(usable) // 2]), set(usable[len(usable) // 2 :])


@functools.cache
def _usable() -> frozenset[int]:
    """Return the processors that this process may use, before any pinning."""
    return frozenset(os.sched_getaffinity(0))


def pin_clients() -> None:
    """Keep this process and its future children off the servers' processors."""
    parted = halves()
    if parted is not None:
        os.sched_setaffinity(0, parted[0])


def pin_server(pids: Iterable[int]) -> None:
    """Keep a server's processes and their future children on the servers' processors."""
    parted = halves()
    if parted is not None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # a helper that has ended
                os.sched_setaffinity(pid, parted[1])
