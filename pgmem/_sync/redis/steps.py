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
        """Take a part of an import, making it if it is new.

        Whoever opened it before makes no step any more (`ImportConflict`); one under way is waited
        for.

        Args:
            source: the name of the import, 1 to 512 bytes.
            part: what of it, 1 to 528 bytes.
            target: the stream that it fills, if it fills one: no other part may fill that.

        Raises:
            ImportConflict: another part fills the target, or this one has filled another.
        """
        token = uuid.uuid4().hex
        return self._executor.execute(ops.open_part(source, part, target=target, token=token))

    def list(self, source: str | None = None) -> list[ImportPart]:
        """The parts of an import, or of all of them, in the order of their names."""
        return self._executor.execute(ops.list_parts(source))

    def get(self, source: str, part: str) -> ImportPart | None:
        """A part as it is now, or None if there is none; nobody's right to it is taken."""
        found = self._executor.execute(ops.list_parts(source, part))
        return found[0] if found else None

    def check_events(self, items: Sequence[ImportedEvent]) -> ops.Batch:
        """Check events, at most 10,000; what cannot be held is in the batch's `refused`."""
        return ops.check_events(items, max_bytes=self._codec.max_bytes)

    def check_entries(self, items: Sequence[ImportedEntry]) -> ops.Batch:
        """Check state entries, at most 10,000; what cannot be held is in the batch's `refused`."""
        return ops.check_entries(items, max_bytes=self._codec.max_bytes)

    def check_records(self, items: Sequence[ImportedRecord]) -> ops.Batch:
        """Check records, at most 10,000; what cannot be held is in the batch's `refused`."""
        return ops.check_records(items, max_bytes=self._codec.max_bytes)

    def append_events(
        self,
        part: ImportPart,
        batch: ops.Batch,
        *,
        cursor: str,
        refused: int = 0,
        detail: dict[str, Any] | None = None,
    ) -> ImportPart:
        """Append events to the part's target, in their order.

        Args:
            part: as the last step gave it.
            batch: from `events`.
            cursor: how far the source has been read with this step.
            refused: how many items of the source were left out.
            detail: a JSON object that replaces the part's; None keeps it.

        Returns:
            The part after the step.

        Raises:
            ImportConflict: another process has opened the part since; nothing was written.
            OutcomeUnknown: the connection was lost for so long that nobody knows; open it again.
        """
        step = ops.Step(cursor, batch.size, refused, detail)
        return self._executor.execute(ops.append_events(part, batch, step))

    def put_entries(
        self,
        part: ImportPart,
        batch: ops.Batch,
        *,
        cursor: str,
        done: int | None = None,
        refused: int = 0,
        detail: dict[str, Any] | None = None,
        slack: float = 0.0,
        adopt: bool = False,
    ) -> tuple[ImportPart, Sequence[str]]:
        """Write state entries: those that are missing, and those that the same origin changed.

        Each write appends an event of the type `state.imported`, with the origin as metadata.
        Entries that are the same already are not written. Those that hold what somebody else has
        written stay as they are.

        Args:
            part, cursor, refused, detail: as for `append`.
            batch: from `entries`.
            done: how many items of the source the step is about; None for the size of the batch.
            slack: the end of an entry may be off by this share of what it has left (or by two
                seconds) and is then not written.
            adopt: entries that somebody else has written, and that are the same, are written once
                more: from now on this origin may change them.

        Returns:
            The part after the step, and the keys that hold what somebody else has written.

        Raises:
            ImportConflict, OutcomeUnknown: as `append`.
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
        batch: ops.Batch,
        *,
        cursor: str,
        done: int | None = None,
        refused: int = 0,
        detail: dict[str, Any] | None = None,
        slack: float = 0.0,
    ) -> tuple[ImportPart, Sequence[str]]:
        """Mark work as done: `run_once` and `claim` skip it. What is marked here stays as it is.

        Args:
            part, cursor, refused, detail, done, slack: as for `put`.
            batch: from `records`.

        Returns:
            The part after the step, and the keys that somebody is at right now or that another
            origin has marked.

        Raises:
            ImportConflict, OutcomeUnknown: as `append`.
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
        """Make a group what another store says of it: what is open goes to the next member.

        Done again it follows the other store, until somebody works in the group here. One that was
        opened before, and in which nobody has worked, keeps its order and its `max_attempts`.

        Args:
            part: as the last step gave it: one for this group alone.
            name: the group's, 1 to 512 bytes.
            stream: the stream that it follows.
            position: everything up to it was handed out.
            open: what was handed out and is not done, at most 10,000; what is not in the log is
                passed over.
            after, until: the range of positions that `open` is about, if it is not all of them:
                what else is open in it is done.

        Returns:
            The part after the step, and whether the group was filled: not if members have worked in
            it, or it follows something else.

        Raises:
            ImportConflict, OutcomeUnknown: as `append`.
        """
        given = group_ops.Fill(name, stream, position, open, after, until)
        return self._executor.execute(group_ops.fill(part, given))

    def known_deliveries(
        self, group: str, *, after: int = 0, limit: int = 1_000
    ) -> Sequence[KnownDelivery]:
        """What a group has handed out and is not done, held or parked, in the order of the log.

        Args:
            group: its name.
            after: only positions above this one: the last of the page before.
            limit: at most so many, 1 to 100,000.
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
        """Make a step that brings nothing.

        Args:
            part, cursor, done, refused, detail: as for `put`.

        Raises:
            ImportConflict, OutcomeUnknown: as `append`.
        """
        step = ops.Step(cursor, done, refused, detail)
        return self._executor.execute(ops.advance(part, step))

    def known_entries(
        self, keys: Sequence[str] | None = None, *, after: str = "", limit: int = 1_000
    ) -> Sequence[KnownEntry]:
        """State entries in the order of their keys, and which of them an import has brought.

        Args:
            keys: only these.
            after: only keys above this one: the last key of the page before.
            limit: at most so many, 1 to 100,000.
        """
        return self._executor.execute(ops.known_entries(after=after, limit=limit, keys=keys))

    def known_records(
        self, keys: Sequence[str] | None = None, *, after: str = "", limit: int = 1_000
    ) -> Sequence[KnownRecord]:
        """Work that is marked as done, in the order of its keys: also what was done here.

        Args:
            keys, after, limit: as for `known_entries`.
        """
        return self._executor.execute(ops.known_records(after=after, limit=limit, keys=keys))

    def delete_records(self, records: Sequence[KnownRecord]) -> int:
        """Forget records that imports have made and nobody has changed since; tells how many."""
        return self._executor.execute(ops.delete_records(records))
