"""A trial (`--dry-run`): everything is read, converted and checked, and nothing is written.

It is the import itself on a memory that only says yes, so that both take the same way. Whether
pgmem holds something else under a key already is seen only when it is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

from pgmem import Memory
from pgmem.redis import ImportPart, Imports, KnownMark


class TrialImports:
    """`Imports`, reading only."""

    def __init__(self, steps: Imports) -> None:
        self.get = steps.get
        self.list = steps.list
        self.events = steps.events
        self.entries = steps.entries
        self.marks = steps.marks
        self.known_entries = steps.known_entries
        self.known_marks = steps.known_marks

    def open(self, source: str, part: str, *, target: str | None = None) -> ImportPart:
        """The part as it is, or as it would be."""
        now = datetime.now(UTC)
        blank = ImportPart(source, part, target, "", 0, 0, {}, now, now, "", 0)
        return self.get(source, part) or blank

    def append(self, part: ImportPart, batch: Any, *, cursor: str, **more: Any) -> ImportPart:
        """The part as it would be after the step."""
        return self._step(part, batch.size, cursor=cursor, **more)

    def put(
        self, part: ImportPart, batch: Any, *, cursor: str, **more: Any
    ) -> tuple[ImportPart, Sequence[str]]:
        """The part as it would be after the step."""
        return self._step(part, batch.size, cursor=cursor, **more), ()

    mark = put

    def advance(self, part: ImportPart, *, cursor: str, **more: Any) -> ImportPart:
        """The part as it would be after the step."""
        return self._step(part, 0, cursor=cursor, **more)

    def unmark(self, marks: Sequence[KnownMark]) -> int:
        """How many would be forgotten."""
        return len(marks)

    @staticmethod
    def _step(
        part: ImportPart,
        size: int,
        *,
        cursor: str,
        done: int | None = None,
        refused: int = 0,
        detail: dict[str, Any] | None = None,
        **more: Any,  # what does not matter on trial
    ) -> ImportPart:
        return part._replace(
            cursor=cursor,
            done=part.done + (size if done is None else done),
            refused=part.refused + refused,
            detail=part.detail if detail is None else detail,
        )


class TrialState:
    """`memory.state`, deleting nothing."""

    def delete(self, key: str, *, expected_version: int | None = None) -> bool:
        """What would be told."""
        return bool(key) and expected_version is not None


class TrialMemory:
    """A memory that reads from the real one and writes nothing."""

    def __init__(self, memory: Memory) -> None:
        self.state = TrialState()
        self.events = memory.events


def on_trial(memory: Memory) -> tuple[Memory, Imports]:
    """Return stand-ins for a memory and its steps, with what an import calls."""
    return cast(Memory, TrialMemory(memory)), cast(Imports, TrialImports(Imports(memory)))
