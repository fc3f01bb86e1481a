"""What the figures were taken on: machine, versions, settings, and what an fsync costs.

Measures one thing only, the disk; everything else is read from the system.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import psycopg

PACKAGES = ("pgmem-agents", "psycopg", "psycopg-pool", "orjson", "pydantic", "redis", "hiredis")


def fsync_microseconds(folder: Path | None = None, times: int = 200) -> float:
    """The median time to append 8 kB to a file and have it on the disk.

    Args:
        folder: on the file system to try; None for that of temporary files.
        times: how often.
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
    """The machine and the versions of what runs on it."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    load = os.getloadavg()
    return {
        "processor": _processor(),
        "cores": str(
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ),
        "load before": f"{load[0]:.2f} {load[1]:.2f} {load[2]:.2f}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "psycopg implementation": psycopg.pq.__impl__,
        **versions,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
