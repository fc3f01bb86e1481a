# Generated from pgmem/optimistic/stale.py by tools/generate_sync.py. Do not edit.
"""Say what has changed since an optimistic transaction read it."""

from __future__ import annotations

from collections.abc import Mapping

from pgmem._sync.core.execution import Executor
from pgmem._sync.events.transaction_verbs import TransactionEvents
from pgmem.errors import StaleRead
from pgmem.events.codec import Codec
from pgmem.events.models import RecordedEvent
from pgmem.optimistic import ops
from pgmem.optimistic.models import Stale
from pgmem.optimistic.ops import Name
from pgmem.state import read_ops

MAX_EVENTS = 100
"""The most events that a `StaleRead` holds for one name."""


def stale_read(
    changed: Mapping[Name, int],
    expected: Mapping[Name, int],
    executor: Executor,
    codec: Codec,
) -> StaleRead:
    """Return the error for what has changed, with what there is now.

    Args:
        changed: the versions that were found.
        expected: the versions that were read; at least those of `changed`.
        executor: reads what there is now.
        codec: decodes the events since.
    """
    reads = [
        _describe(name, expected[name], actual, executor, codec)
        for name, actual in sorted(changed.items())
    ]
    first = reads[0]
    listed = ", ".join(
        f"{one.kind} {one.name!r} had version {one.expected} and has {one.actual}"
        for one in reads[:5]
    )
    return StaleRead(
        f"{ops.ACTION}: {listed}{' …' if len(reads) > 5 else ''}. Nothing was written. Read "
        f"again and decide again, or let run_transaction(fn, optimistic=True) do it",
        expected=first.expected,
        actual=first.actual,
        current=first.current,
        reads=reads,
    )


def _describe(name: Name, expected: int, actual: int, executor: Executor, codec: Codec) -> Stale:
    kind, key = name
    if kind == "stream":
        since = TransactionEvents(executor, codec).read_stream(
            key, after_version=expected, limit=MAX_EVENTS
        )
        return Stale(kind, key, expected, actual, None, since)
    current = executor.execute(read_ops.get(key))
    events = executor.execute(read_ops.history(key, codec, after=expected, limit=MAX_EVENTS))
    if expected == 0:
        events = _since_absent(events)
    return Stale(kind, key, expected, actual, current, events)


def _since_absent(events: list[RecordedEvent]) -> list[RecordedEvent]:
    """Return the events since an entry was last created."""
    deletions = [
        place for place, event in enumerate(events[:-1]) if event.change and event.change.deleted
    ]
    return events[deletions[-1] + 1 :] if deletions else events
