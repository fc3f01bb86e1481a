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

from collections.abc import Sequence
from typing import Any, NamedTuple

from pgmem.core.encoding import decode, encode_object
from pgmem.core.names import PART_BYTES
from pgmem.core.op import Op, Retry, RetryStatement, Row
from pgmem.core.validation import check_count, check_name
from pgmem.errors import InvalidInput
from pgmem.events.ops import check_stream
from pgmem.redis.batches import Batch
from pgmem.redis.errors import ImportConflict
from pgmem.redis.models import ImportPart


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
