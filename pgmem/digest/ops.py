"""Describe the statements of a digest, and what their rows mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgmem.core.encoding import decode
from pgmem.core.op import Op, Row
from pgmem.core.validation import after_prefix, check_prefix
from pgmem.digest.models import ChangedEntry, StreamNews
from pgmem.events.columns import STREAM
from pgmem.events.event_classes import stored_event
from pgmem.events.filter import EventFilter
from pgmem.events.models import RecordedEvent
from pgmem.state.fields import ABSENT, changed_fields
from pgmem.state.read_ops import check_keys

MAX_ENTRIES = 10_000
MAX_EVENTS = 100
"""The most events of one stream."""


def changed_entries(
    after: int, until: int, *, keys: Sequence[str] | None, prefix: str | None
) -> Op[tuple[list[ChangedEntry], int]]:
    """Read the entries that changed between two positions, and how many there are.

    At most the `MAX_ENTRIES` that changed last are returned.

    Args:
        after: above this position.
        until: up to this one.
        keys: of these entries; None for all.
        prefix: of entries whose key begins with it; None for all.

    Raises:
        InvalidInput: a key or the prefix cannot be one.
    """
    params: dict[str, Any] = {"after": after, "until": until, "limit": MAX_ENTRIES}
    conditions = []
    if keys is not None:
        params["keys"] = check_keys(keys)
        conditions.append("state_key = ANY (%(keys)s)")
    if prefix is not None and check_prefix(prefix, "prefix"):
        params["prefix"] = prefix
        conditions.append("state_key >= %(prefix)s")
        if (end := after_prefix(prefix)) is not None:
            params["end"] = end
            conditions.append("state_key < %(end)s")
    return Op(
        "digest_changes",
        params,
        lambda rows: ([_entry(row) for row in rows], rows[0][-1] if rows else 0),
        f"digest the changes of the state after position {after}",
        fragments=(("filter", "".join(f" AND {one}" for one in conditions)),),
    )


def _entry(row: Row) -> ChangedEntry:
    key, changes, agents, position, version, after, before_version, before, first, _ = row
    certain = first == 1 or before_version == first - 1
    old = ABSENT if before is None else decode(before)
    new = ABSENT if after is None else decode(after)
    return ChangedEntry(
        key,
        decode(before) if certain and before is not None else None,
        None if after is None else decode(after),
        certain and before is not None,
        after is not None,
        list(changed_fields(old if certain else ABSENT, new)),
        changes,
        version,
        position,
        agents or [],
        certain,
    )


def new_events(after: int, until: int, *, wanted: EventFilter) -> Op[list[StreamNews]]:
    """Read the new events of each stream between two positions. Changes of entries are left out.

    Payloads are as they are stored, so that an event that does not fit its class is told, too.
    """

    def parse(rows: Sequence[Row]) -> list[StreamNews]:
        found: dict[str, list[RecordedEvent]] = {}
        counts: dict[str, int] = {}
        for row in rows:
            found.setdefault(row[STREAM], []).append(stored_event(row[:-1]))
            counts[row[STREAM]] = row[-1]
        return [StreamNews(stream, events, counts[stream]) for stream, events in found.items()]

    return Op(
        "digest_events",
        {**wanted.params(), "after": after, "until": until, "limit": MAX_EVENTS},
        parse,
        f"digest the events after position {after}",
        fragments=wanted.fragments(),
    )
