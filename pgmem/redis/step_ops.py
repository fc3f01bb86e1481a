"""Statements of an import: one for each step of a part.

`pgmem.redis.steps` executes them. Only the caller knows what the other store is, and what a cursor
means there.

A part of an import is one row. A step is one statement, so the imported items and the cursor of the
source commit together::

             open                    append, put, advance (token, step n)
    (no row) ─────► opened ──────────────────────────────────────────────┐
                    ▲  ▲  └─────────────────────────────────────────────►│ step n + 1
                    │  └─────────────────────────────────────────────────┘
                    └─ open by another process: a new token, and steps with the old one are refused

Only the process that opened the part last makes a step, and makes it once. If it sends a step again
after a lost connection, it finds step n + 1 under its own token, and nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from pgmem.core.arrays import JsonColumn, NameColumn
from pgmem.core.encoding import TOGETHER, are_texts, check_text, decode, encode_object
from pgmem.core.names import PART_BYTES
from pgmem.core.op import Op, Retry, RetryStatement, Row
from pgmem.core.validation import check_count, check_name, check_prefix
from pgmem.errors import InvalidInput, InvalidValue
from pgmem.events.ops import MAX_BATCH, check_stream
from pgmem.redis.errors import ImportConflict
from pgmem.redis.models import (
    ImportedEntry,
    ImportedEvent,
    ImportedRecord,
    ImportPart,
    KnownEntry,
    KnownRecord,
    Refusal,
)

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


def open_part(source: str, part: str, *, target: str | None, token: str) -> Op[ImportPart]:
    """Open a part; make it if it is new.

    Args:
        source: the name of the import.
        part: the name of the part.
        target: the stream that it fills, if it fills one.
        token: unique to the caller.

    Raises (from `parse`):
        ImportConflict: another part fills the target, or this one fills another target.
        LostRace: run it again.
    """

    def parse(rows: Sequence[Row]) -> ImportPart:
        if rows[0][0] is not None:
            return _part(rows[0])
        rival_source, rival_part, other_target = rows[0][11:14]
        if rival_source is not None:
            raise ImportConflict(
                f"cannot open {part!r} of the import {source!r}: {target!r} is filled by "
                f"{rival_part!r} of the import {rival_source!r}. A second import into it would "
                f"write its events twice, or mix up their order. To continue that import, give its "
                f"name. To import another source, give another target"
            )
        if other_target == target:
            raise RetryStatement
        raise ImportConflict(
            f"cannot open {part!r} of the import {source!r} for {target!r}: its target so far is "
            f"{other_target!r}. Keep the target, or give the import another name"
        )

    return Op(
        "import_open",
        {
            "source": check_source(source),
            "part": check_name(part, "part of an import", most=PART_BYTES),
            "target": None if target is None else check_stream(target),
            "token": token,
        },
        parse,
        f"open {part!r} of the import {source!r}",
        Retry.IDEMPOTENT,
    )


def check_source(source: str) -> str:
    """Check the name of an import.

    Raises:
        InvalidInput: as `check_name`.
    """
    return check_name(source, "name of an import")


def list_parts(source: str | None, part: str | None = None) -> Op[list[ImportPart]]:
    """Return the parts of an import, or of all imports."""
    return Op(
        "import_list",
        {"source": None if source is None else check_source(source), "part": part},
        lambda rows: [_part(row) for row in rows],
        "list imports",
    )


def _part(row: Row) -> ImportPart:
    source, part, target, cursor, token, step, done, refused, detail, created, updated = row[:11]
    return ImportPart(
        source, part, target, cursor, done, refused, decode(detail), created, updated, token, step
    )


class Step(NamedTuple):
    """The changes that a step makes to its part.

    Attributes:
        cursor: how far the source has been read.
        done: number of imported items.
        refused: number of items that are left out.
        detail: the new JSON object of the caller; None keeps the old one.
    """

    cursor: str
    done: int
    refused: int
    detail: dict[str, Any] | None

    def params(self, part: ImportPart) -> dict[str, Any]:
        """Return the parameters of the statement piece `import_step`."""
        check_count(self.done, "done", minimum=0)
        check_count(self.refused, "refused", minimum=0)
        detail = None
        if self.detail is not None:
            detail = encode_object(self.detail, "detail", limit=2**20)
        return {
            "source": part.source,
            "part": part.part,
            "token": part.token,
            "step": part.step,
            "cursor": self.cursor,
            "done": self.done,
            "refused": self.refused,
            "detail": detail,
        }

    def of(self, part: ImportPart, row: Row) -> ImportPart:
        """Return the part after the step.

        Raises:
            ImportConflict: another process opened the part after this one.
            LostRace: run it again.
        """
        step, token, found = row[:3]
        if step is None:
            if token == part.token and found == part.step:
                raise RetryStatement
            if token != part.token or found != part.step + 1:
                raise ImportConflict(
                    f"step {part.step + 1} of {part.part!r} of the import {part.source!r} was "
                    f"refused: another process has opened it since and continues it. Nothing was "
                    f"changed. Only one process may run an import"
                )
            # This step was made before, and its answer was lost.
        return part._replace(
            step=part.step + 1,
            cursor=self.cursor,
            done=part.done + self.done,
            refused=part.refused + self.refused,
            detail=part.detail if self.detail is None else self.detail,
        )


def _op(
    statement: str, part: ImportPart, step: Step, more: dict[str, Any], action: str
) -> Op[ImportPart]:
    return Op(
        statement,
        {**step.params(part), **more},
        lambda rows: step.of(part, rows[0]),
        f"{action} of the import {part.source!r}",
        Retry.IDEMPOTENT,
    )


def advance(part: ImportPart, step: Step) -> Op[ImportPart]:
    """Make a step that imports nothing."""
    return _op("import_advance", part, step, {}, f"advance {part.part!r}")


def append_events(part: ImportPart, batch: Batch, step: Step) -> Op[ImportPart]:
    """Append events to the target of the part, and make the step."""
    if part.target is None:
        raise InvalidInput(
            f"{part.part!r} of the import {part.source!r} was opened without a target"
        )
    more = {"stream": part.target, **batch.columns}
    return _op(
        "import_append_events", part, step, more, f"append {batch.size} events of {part.part!r}"
    )


def put_entries(
    part: ImportPart, batch: Batch, step: Step, *, slack: float, adopt: bool
) -> Op[tuple[ImportPart, list[str]]]:
    """Write entries and make the step. Return the keys that were left as they are too.

    Args:
        part: the part.
        batch: the entries.
        step: the step.
        slack: the share of its remaining time by which an expiry may differ.
        adopt: also write equal entries of another origin or of pgmem.
    """
    more = batch.columns | {"slack": slack, "adopt": adopt}
    return _telling(_op("import_put_entries", part, step, more, f"put {part.part!r}"))


def put_records(
    part: ImportPart, batch: Batch, step: Step, *, slack: float
) -> Op[tuple[ImportPart, list[str]]]:
    """Write dedupe records and make the step. Return the keys that were left as they are too."""
    more = batch.columns | {"slack": slack}
    return _telling(_op("import_put_records", part, step, more, f"put {part.part!r}"))


def _telling(op: Op[ImportPart]) -> Op[tuple[ImportPart, list[str]]]:
    """Return an operation that also returns the keys that were left as they are."""
    return Op(
        op.statement,
        op.params,
        lambda rows: (op.parse(rows), list(rows[0][4])),
        op.action,
        op.retry,
    )


def known_entries(*, after: str, limit: int, keys: Sequence[str] | None) -> Op[list[KnownEntry]]:
    """Return entries, and the origin of their latest change."""
    return Op(
        "import_known_entries",
        {"type": ENTRY_TYPE, **_page(after, limit, keys)},
        lambda rows: [
            KnownEntry(key, decode(value), version, ttl, decode(origin))
            for key, value, version, ttl, origin in rows
        ],
        "list entries and their origins",
        fragments=_among(keys),
    )


def known_records(*, after: str, limit: int, keys: Sequence[str] | None) -> Op[list[KnownRecord]]:
    """Return the dedupe records of work that is done."""
    return Op(
        "import_known_records",
        _page(after, limit, keys),
        lambda rows: [
            KnownRecord(
                key,
                decode(result),
                ttl,
                owner.removeprefix(OWNER) if owner and owner.startswith(OWNER) else None,
            )
            for key, result, owner, ttl in rows
        ],
        "list finished work",
        fragments=_among(keys),
    )


def delete_records(found: Sequence[KnownRecord]) -> Op[int]:
    """Delete records that an import has made. Return their number."""
    mine = [known for known in found if known.origin is not None]
    return Op(
        "import_delete_records",
        {"keys": [known.key for known in mine], "owners": [f"{OWNER}{k.origin}" for k in mine]},
        lambda rows: int(rows[0][0]),
        f"delete {len(mine)} dedupe records",
        Retry.IDEMPOTENT,
    )


def _page(after: str, limit: int, keys: Sequence[str] | None) -> dict[str, Any]:
    return {
        "after": check_prefix(after, "after"),
        "limit": check_count(limit, "limit", minimum=1, maximum=100_000),
        "keys": None if keys is None else [check_name(key, "key") for key in keys],
    }


def _among(keys: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """Return the condition on the keys. A parameter that may be NULL would rule out the index."""
    return (("among", "" if keys is None else "AND key = ANY (%(keys)s::text[])"),)
