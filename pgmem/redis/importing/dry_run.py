"""Stand-ins for a memory and its steps that read and check everything, and write nothing.

`--dry-run` is the import itself on these stand-ins, so both take the same path. Whether pgmem holds
another value under a key is seen only when the key is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

from pgmem import Memory
from pgmem.redis import ImportPart, Imports, KnownRecord


class DryRunImports:
    """`Imports` that read only."""

    def __init__(self, imports: Imports) -> None:
        self.get = imports.get
        self.list = imports.list
        self.check_events = imports.check_events
        self.check_entries = imports.check_entries
        self.check_records = imports.check_records
        self.known_entries = imports.known_entries
        self.known_records = imports.known_records

    def open(self, source: str, part: str, *, target: str | None = None) -> ImportPart:
        """Return the part as it is stored, or as it would be made."""
        now = datetime.now(UTC)
        blank = ImportPart(source, part, target, "", 0, 0, {}, now, now, "", 0)
        return self.get(source, part) or blank

    def append_events(
        self, part: ImportPart, batch: Any, *, cursor: str, **more: Any
    ) -> ImportPart:
        """Return the part as it would be after the step."""
        return self._step(part, batch.size, cursor=cursor, **more)

    def put_entries(
        self, part: ImportPart, batch: Any, *, cursor: str, **more: Any
    ) -> tuple[ImportPart, Sequence[str]]:
        """Return the part as it would be after the step, and no key that is held."""
        return self._step(part, batch.size, cursor=cursor, **more), ()

    put_records = put_entries

    def advance(self, part: ImportPart, *, cursor: str, **more: Any) -> ImportPart:
        """Return the part as it would be after the step."""
        return self._step(part, 0, cursor=cursor, **more)

    def delete_records(self, records: Sequence[KnownRecord]) -> int:
        """Return the number of records that would be deleted."""
        return len(records)

    @staticmethod
    def _step(
        part: ImportPart,
        size: int,
        *,
        cursor: str,
        done: int | None = None,
        refused: int = 0,
        detail: dict[str, Any] | None = None,
        **more: Any,  # options of the writes
    ) -> ImportPart:
        return part._replace(
            cursor=cursor,
            done=part.done + (size if done is None else done),
            refused=part.refused + refused,
            detail=part.detail if detail is None else detail,
        )


class DryRunState:
    """`memory.state` that deletes nothing."""

    def delete(self, key: str, *, expected_version: int | None = None) -> bool:
        """Return what `state.delete` would return."""
        return bool(key) and expected_version is not None


class DryRunMemory:
    """A memory that reads from the real one and writes nothing."""

    def __init__(self, memory: Memory) -> None:
        self.state = DryRunState()
        self.events = memory.events


def dry_run(memory: Memory) -> tuple[Memory, Imports]:
    """Return stand-ins that have the methods which an import calls."""
    return cast(Memory, DryRunMemory(memory)), cast(Imports, DryRunImports(Imports(memory)))
