"""Check the items of a step, and turn them into columns of its statement. Does no I/O.

What pgmem cannot store is in the batch's `refused`, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pgmem.core.arrays import JsonColumn, NameColumn
from pgmem.core.encoding import TOGETHER, are_texts, check_text
from pgmem.core.validation import check_count, check_name
from pgmem.errors import InvalidInput, InvalidValue
from pgmem.events.ops import MAX_BATCH
from pgmem.redis.models import ImportedEntry, ImportedEvent, ImportedRecord, Refusal

ENTRY_TYPE = "state.imported"
"""The type of the events that record what an import did to the state."""
OWNER = "import:"
"""The prefix of the owner of a dedupe record that an import has made."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The checked items of a step, as columns of the statement.

    Attributes:
        columns: the parameters of the statement.
        size: number of rows in them.
        refused: the items that pgmem cannot store, by their index.
    """

    columns: dict[str, Any]
    size: int
    refused: list[Refusal]


def _bad_names(names: Sequence[str | None], what: str) -> dict[int, str]:
    """Return the faults of names by index. Each distinct name is checked once."""
    wrong: dict[str | None, str] = {}
    for name in set(names):
        try:
            if name is not None:
                check_name(name, what)
        except InvalidInput as error:
            wrong[name] = str(error)
    if not wrong:
        return {}
    return {place: wrong[name] for place, name in enumerate(names) if name in wrong}


def _bad_texts(texts: Sequence[bytes | None], what: str, limit: int) -> dict[int, str]:
    """Return the faults of JSON texts by index. Many are checked together, which costs half."""
    bad: dict[int, str] = {}
    for start in range(0, len(texts), TOGETHER):
        some = texts[start : start + TOGETHER]
        if are_texts([text for text in some if text is not None], limit=limit):
            continue
        for place, text in enumerate(some, start):
            try:
                if text is not None:
                    check_text(text, what, limit=limit)
            except InvalidValue as error:
                bad[place] = str(error)
    return bad


T = TypeVar("T", ImportedEvent, ImportedEntry, ImportedRecord)


def _sort_out(items: Sequence[T], *bad: dict[int, str]) -> tuple[list[T], list[Refusal]]:
    """Separate the items that can be stored from those that cannot."""
    reasons: dict[int, str] = {}
    for some in bad:
        reasons = some | reasons  # the first reason stands
    if not reasons:
        return list(items), []
    kept = [item for place, item in enumerate(items) if place not in reasons]
    return kept, [Refusal(place, reasons[place]) for place in sorted(reasons)]


def _check_size(items: Sequence[Any]) -> None:
    check_count(len(items), "number of items in one step", minimum=0, maximum=MAX_BATCH)


def check_events(items: Sequence[ImportedEvent], *, max_bytes: int) -> Batch:
    """Check events."""
    _check_size(items)
    kept, refused = _sort_out(
        items,
        _bad_names([event.type for event in items], "event type"),
        _bad_names([event.agent_id for event in items], "agent_id"),
        _bad_texts([event.payload for event in items], "payload", max_bytes),
        _bad_texts([event.metadata for event in items], "metadata", max_bytes),
    )
    agents = [event.agent_id for event in kept]
    metadata = [event.metadata for event in kept]
    columns = {
        "types": NameColumn([event.type for event in kept]),
        "payloads": JsonColumn([event.payload for event in kept]),
        "agents": NameColumn(agents) if any(agents) else None,
        "metadata": JsonColumn(metadata) if any(metadata) else None,
    }
    return Batch(columns, len(kept), refused)


def check_entries(items: Sequence[ImportedEntry], *, max_bytes: int) -> Batch:
    """Check state entries. Of one key the last entry counts, and only of its first origin."""
    _check_size(items)
    kept, refused = _sort_out(
        items,
        _bad_names([entry.key for entry in items], "key"),
        _bad_texts([entry.value for entry in items], "value", max_bytes),
        _bad_texts([entry.origin for entry in items], "origin", max_bytes),
        _rivals(items),
    )
    kept = list({entry.key: entry for entry in kept}.values())
    columns = {
        "keys": NameColumn([entry.key for entry in kept]),
        "values": JsonColumn([entry.value for entry in kept]),
        "ttls": _ends(entry.ttl for entry in kept),
        "origins": JsonColumn([entry.origin for entry in kept]),
        "type": ENTRY_TYPE,
    }
    return Batch(columns, len(kept), refused)


def check_records(items: Sequence[ImportedRecord], *, max_bytes: int) -> Batch:
    """Check dedupe records. Of one key the last record counts, and only of its first origin."""
    _check_size(items)
    kept, refused = _sort_out(
        items,
        _bad_names([record.key for record in items], "idempotency key"),
        _bad_texts([record.result for record in items], "result", max_bytes),
        _rivals(items),
    )
    kept = list({record.key: record for record in kept}.values())
    results = [record.result for record in kept]
    columns = {
        "keys": NameColumn([record.key for record in kept]),
        "results": JsonColumn(results) if any(results) else None,
        "ttls": _ends(record.ttl for record in kept),
        "owners": NameColumn([OWNER + record.origin for record in kept]),
        "prefix": OWNER,
    }
    return Batch(columns, len(kept), refused)


def _ends(ttls: Iterable[float | None]) -> list[float | None] | None:
    found = list(ttls)
    return found if any(ttl is not None for ttl in found) else None


def _rivals(items: Sequence[ImportedEntry | ImportedRecord]) -> dict[int, str]:
    """Return the items whose key an item of another origin has."""
    first: dict[str, str | bytes] = {}
    bad = {}
    for place, item in enumerate(items):
        if first.setdefault(item.key, item.origin) != item.origin:
            bad[place] = (
                f"the key {item.key[:60]!r} comes from two different origins. Map them to "
                f"different keys"
            )
    return bad
