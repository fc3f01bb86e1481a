# Generated from pgmem/redis/steps.py by tools/generate_sync.py. Do not edit.
"""Import the data of another store step by step, each item once.

`pgmem.redis.step_ops` says what to run, and draws the states of a part.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from pgmem._sync.memory import Memory
from pgmem.core.validation import MAX_POSITION
from pgmem.redis import batches, known_ops
from pgmem.redis import group_step_ops as group_ops
from pgmem.redis import step_ops as ops
from pgmem.redis.models import (
    ImportedDelivery,
    ImportedEntry,
    ImportedEvent,
    ImportedRecord,
    ImportPart,
    KnownDelivery,
    KnownEntry,
    KnownRecord,
)


class Imports:
    """Import the data of another store into a memory.

    Each part of an import (a stream, the entries of all hashes …) stores how far its source has
    been read. That commits with the imported items. So after a crash the next process continues
    where the last one was, and no item is missing or imported twice.

    >>> from pgmem.redis import Imports, ImportedEvent
    >>> imports = Imports(memory)
    >>> part = imports.open("old store", "stream payments", target="payments")
    >>> batch = imports.check_events([ImportedEvent("received", b'{"amount": 5}')])
    >>> part = imports.append_events(part, batch, cursor="17")
    >>> part.cursor, part.done, (memory.events.read("payments"))[0].payload
    ('17', 1, {'amount': 5})

    Args:
        memory: the memory to import into. It must be open when a step is made.
    """

    def __init__(self, memory: Memory) -> None:
        # A step writes events, state and its cursor in one statement, which no public verb does.
        self._executor = memory._executor
        self._codec = memory._codec
        self._cache = memory._cache

    def open(self, source: str, part: str, *, target: str | None = None) -> ImportPart:
        """Open a part of an import; make it if it is new.

        Steps of a process that opened it before raise `ImportConflict` from now on. A step that is
        under way is waited for.

        Args:
            source: the name of the import, 1 to 512 bytes.
            part: the name of the part, 1 to 528 bytes.
            target: the stream that it fills, if it fills one. No other part may fill that.

        Raises:
            ImportConflict: another part fills the target, or this one has filled another.
        """
        token = uuid.uuid4().hex
        return self._executor.execute(ops.open_part(source, part, target=target, token=token))

    def list(self, source: str | None = None) -> list[ImportPart]:
        """Return the parts of an import, or of all imports, in the order of their names."""
        return self._executor.execute(ops.list_parts(source))

    def get(self, source: str, part: str) -> ImportPart | None:
        """Return a part as it is stored, or None. The process that opened it keeps it."""
        found = self._executor.execute(ops.list_parts(source, part))
        return found[0] if found else None

    def check_events(self, items: Sequence[ImportedEvent]) -> batches.Batch:
        """Check up to 10,000 events. What cannot be stored is in the batch's `refused`."""
        return batches.check_events(items, max_bytes=self._codec.max_bytes)

    def check_entries(self, items: Sequence[ImportedEntry]) -> batches.Batch:
        """Check up to 10,000 entries. What cannot be stored is in the batch's `refused`."""
        return batches.check_entries(items, max_bytes=self._codec.max_bytes)

    def check_records(self, items: Sequence[ImportedRecord]) -> batches.Batch:
        """Check up to 10,000 dedupe records. What cannot be stored is in the batch's `refused`."""
        return batches.check_records(items, max_bytes=self._codec.max_bytes)

    def append_events(
        self,
        part: ImportPart,
        batch: batches.Batch,
        *,
        cursor: str,
        refused: int = 0,
        detail: dict[str, Any] | None = None,
    ) -> ImportPart:
        """Append events to the part's target, in their order.

        Args:
            part: the part as the last step returned it.
            batch: a batch from `check_events`.
            cursor: how far the source has been read with this step.
            refused: number of items of the source that are left out.
            detail: a JSON object that replaces that of the part; None keeps it.

        Returns:
            The part after the step.

        Raises:
            ImportConflict: another process has opened the part since; nothing was written.
            OutcomeUnknown: the connection was lost for too long. Open the part again.
        """
        step = ops.Step(cursor, batch.size, refused, detail)
        return self._executor.execute(ops.append_events(part, batch, step))

    def put_entries(
        self,
        part: ImportPart,
        batch: batches.Batch,
        *,
        cursor: str,
        done: int | None = None,
        refused: int = 0,
        detail: dict[str, Any] | None = None,
        slack: float = 0.0,
        adopt: bool = False,
    ) -> tuple[ImportPart, Sequence[str]]:
        """Write state entries that are missing, or that the same origin has changed.

        Each write appends an event of the type `state.imported`, with the origin as metadata.
        Equal entries are not written. Entries of another origin, or written in pgmem, stay as they
        are.

        Args:
            part, cursor, refused, detail: as for `append_events`.
            batch: a batch from `check_entries`.
            done: number of items of the source in the step; None for the size of the batch.
            slack: an entry whose expiry differs by less than this share of its remaining time (or
                by two seconds) counts as equal.
            adopt: also write equal entries of another origin or of pgmem. From now on this origin
                may change them.

        Returns:
            The part after the step, and the keys of the entries that stay as they are.

        Raises:
            ImportConflict, OutcomeUnknown: as `append_events`.
        """
        step = ops.Step(cursor, batch.size if done is None else done, refused, detail)
        try:
            return self._executor.execute(
                ops.put_entries(part, batch, step, slack=slack, adopt=adopt)
            )
        finally:
            if self._cache is not None:
                self._cache.flush()

    def put_records(
        self,
        part: ImportPart,
        batch: batches.Batch,
        *,
        cursor: str,
        done: int | None = None,
        refused: int = 0,
        detail: dict[str, Any] | None = None,
        slack: float = 0.0,
    ) -> tuple[ImportPart, Sequence[str]]:
        """Write dedupe records of work that is done: `run_once` and `claim` skip it.

        Records of work that was done in pgmem stay as they are.

        Args:
            part, cursor, refused, detail, done, slack: as for `put_entries`.
            batch: a batch from `check_records`.

        Returns:
            The part after the step, and the keys that are claimed right now or belong to another
            origin.

        Raises:
            ImportConflict, OutcomeUnknown: as `append_events`.
        """
        step = ops.Step(cursor, batch.size if done is None else done, refused, detail)
        return self._executor.execute(ops.put_records(part, batch, step, slack=slack))

    def fill_group(
        self,
        part: ImportPart,
        name: str,
        *,
        stream: str,
        position: int,
        open: Sequence[ImportedDelivery],
        after: int = 0,
        until: int = MAX_POSITION,
    ) -> tuple[ImportPart, bool]:
        """Give a group the state that it has in another store. The next member gets what is open.

        A second call makes it follow the other store, until a member reads from it here. A group
        that exists and that no member has read from keeps its order and its `max_attempts`.

        Args:
            part: the part as the last step returned it. Each group has one of its own.
            name: the name of the group, 1 to 512 bytes.
            stream: the stream that it reads.
            position: the last position that was delivered.
            open: the events that were delivered and not acknowledged, at most 10,000. Events that
                are not in the log are ignored.
            after, until: the range of positions that `open` covers. Other open events in the range
                are acknowledged.

        Returns:
            The part after the step, and True if the group was filled; False if members have read
            from it, or it reads something else.

        Raises:
            ImportConflict, OutcomeUnknown: as `append_events`.
        """
        given = group_ops.Fill(name, stream, position, open, after, until)
        return self._executor.execute(group_ops.fill(part, given))

    def known_deliveries(
        self, group: str, *, after: int = 0, limit: int = 1_000
    ) -> Sequence[KnownDelivery]:
        """Return the events that a group has delivered and not got acknowledged, in log order.

        Args:
            group: the name of the group.
            after: return positions above this one, the last one of the page before.
            limit: maximum number of events, 1 to 100,000.
        """
        return self._executor.execute(group_ops.known_deliveries(group, after=after, limit=limit))

    def advance(
        self,
        part: ImportPart,
        *,
        cursor: str,
        done: int = 0,
        refused: int = 0,
        detail: dict[str, Any] | None = None,
    ) -> ImportPart:
        """Make a step that imports nothing.

        Args:
            part, cursor, done, refused, detail: as for `put_entries`.

        Raises:
            ImportConflict, OutcomeUnknown: as `append_events`.
        """
        step = ops.Step(cursor, done, refused, detail)
        return self._executor.execute(ops.advance(part, step))

    def known_entries(
        self, keys: Sequence[str] | None = None, *, after: str = "", limit: int = 1_000
    ) -> Sequence[KnownEntry]:
        """Return state entries and their origins, in the order of their keys.

        Args:
            keys: return only these; None for all.
            after: return keys above this one, the last key of the page before.
            limit: maximum number of entries, 1 to 100,000.
        """
        return self._executor.execute(known_ops.known_entries(after=after, limit=limit, keys=keys))

    def known_records(
        self, keys: Sequence[str] | None = None, *, after: str = "", limit: int = 1_000
    ) -> Sequence[KnownRecord]:
        """Return dedupe records of work that is done, in the order of their keys.

        Records of work that was done in pgmem are among them.

        Args:
            keys, after, limit: as for `known_entries`.
        """
        return self._executor.execute(known_ops.known_records(after=after, limit=limit, keys=keys))

    def delete_records(self, records: Sequence[KnownRecord]) -> int:
        """Delete records that imports have made and that are unchanged. Return their number."""
        return self._executor.execute(known_ops.delete_records(records))
