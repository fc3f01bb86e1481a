"""The scenarios: one module for each group, and their list.

A group is a context manager that sets its tables, connections and processes up, gives one or
several `Scenario`s, and clears away. To add one: write it, and put its `Entry` into the module's
`ENTRIES`; a new module goes into the list below.
"""

from __future__ import annotations

from benchmarks.scenarios import (
    batches,
    cached,
    catchup,
    connections,
    contention,
    crash,
    fanout,
    followed,
    hot,
    latest,
    many,
    neighbours,
    once,
    peers,
    pipeline,
    reads,
    recovery,
    scale,
    statement,
    write_event,
    writers,
)
from benchmarks.scenarios._base import Bench, Entry

__all__ = ["ENTRIES", "MISSING", "Bench", "Entry"]

ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for module in (
        write_event,
        batches,
        reads,
        catchup,
        latest,
        cached,
        contention,
        hot,
        once,
        fanout,
        followed,
        many,
        recovery,
        pipeline,
        scale,
        neighbours,
        connections,
        writers,
        statement,
        crash,
        peers,
    )
    for entry in module.ENTRIES
}

MISSING = {
    "consumer groups": "pgmem has none yet to stand beside XREADGROUP and XAUTOCLAIM",
}
"""Scenarios whose part of pgmem is still to come, and why they are not there."""
