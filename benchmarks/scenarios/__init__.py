"""List the scenarios; each group has a module.

A group is a context manager that sets up its tables, connections and processes, yields one or
several `Scenario`s, and cleans up. To add one, write it and put its `Entry` into the module's
`ENTRIES`. A new module goes into the list below.
"""

from __future__ import annotations

from benchmarks.scenarios import (
    batches,
    cached,
    catchup,
    concurrent,
    connections,
    contention,
    crash,
    effects,
    fanout,
    followed,
    groups,
    growth,
    handover,
    hot,
    import_redis,
    latest,
    many,
    neighbours,
    once,
    peer_deliveries,
    peers,
    pipeline,
    reads,
    recovery,
    retention,
    scale,
    statement,
    write_event,
    writers,
)
from benchmarks.scenarios._base import Bench, Entry

__all__ = ["ENTRIES", "HEADLINES", "Bench", "Entry"]

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
        concurrent,
        many,
        groups,
        effects,
        growth,
        handover,
        retention,
        recovery,
        import_redis,
        pipeline,
        scale,
        neighbours,
        connections,
        writers,
        statement,
        crash,
        peers,
        peer_deliveries,
    )
    for entry in module.ENTRIES
}

HEADLINES = {
    "write_event/1kB": "event and latest state, 1 kB",
    "append/1": "append one event",
    "append/100": "append 100 events in one call",
    "append/1000": "append 1,000 events in one call",
    "read/100": "read 100 events",
    "read/10000": "read 10,000 events",
    "state_get": "get one entry",
    "cached_get": "get one entry, cached",
    "concurrent/get, 100 tasks": "get, 100 tasks of one process",
    "concurrent/append strict, 100 tasks": "append, 100 tasks of one process",
    "compare_and_set/free": "compare-and-set, no rival",
    "compare_and_set/8 writers on 1 key": "compare-and-set, 8 writers on 1 key",
    "dedupe/first": "work that takes effect once",
    "fanout/1-1": "append to delivery, 1 writer",
    "fanout/16-1": "append to delivery, 16 writers",
    "groups/4 members, batches of 10": "consumer group of 4, batches of 10",
    "pipeline": "payment pipeline, payments/s",
    "recovery": "rebuild 10,000 keys",
}
"""The scenarios of the README's chart, and their names there."""
