# Generated from pgmem/retention/sweep.py by tools/generate_sync.py. Do not edit.
"""Sweeps what is over, a bounded part of it at a time.

::

    pages   0 …      at ──► … end, 0 … ──► at     once round is enough
                      └─ BUDGET statements ─┘     else the next sweep goes on there

Knows nothing of what is over: that is `pgmem.retention.sweep_ops`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection

from pgmem._sync.core.execution import PoolExecutor
from pgmem.core.concurrency import sleep
from pgmem.core.op import Op
from pgmem.retention import sweep_ops as ops
from pgmem.retention.models import PolicyKind, SweepReport

BUDGET = 10
"""Statements in one sweep of a table: so many times `PAGES` of it are looked through."""
PAUSE_FIRST, PAUSE_LAST = 0.001, 0.1
"""Between two of them it leaves the server alone for as long as the last one took."""


class Sweeper:
    """Sweeps the tables, and remembers where it is in each."""

    def __init__(self, executor: PoolExecutor, agent_id: str | None) -> None:
        self._executor = executor
        self._agent_id = agent_id
        self._at: dict[ops.Table, int] = {}

    def sweep(self, ruled: Collection[PolicyKind]) -> SweepReport:
        """Sweep once.

        Args:
            ruled: what there are rules for.

        Raises:
            PermissionDenied: the role may not.
        """
        found = {table: self._table(table) for table in ops.TABLES}
        folds = self._repeat(ops.sweep_folds(), ops.MOST) if "folds" in ruled else 0
        copies = self._repeat(ops.sweep_snapshots(), 1) if "snapshots" in ruled else 0
        return SweepReport(
            expired_keys=found["dedupe"][0],
            expired_entries=found["state"][0],
            leases=found["leases"][0],
            limits=found["limits"][0],
            slots=self._repeat(ops.sweep_slots(), ops.MOST),
            folds=folds,
            snapshots=copies,
            complete=all(complete for _, complete in found.values()),
        )

    def vacuum(self) -> list[str]:
        """Vacuum the tables where autovacuum would come too late; tells which.

        On connections of their own: it may take seconds, and writers need those of the pool.
        """
        due = self._executor.execute(ops.vacuum_due())
        for table in due:
            self._executor.execute_apart(ops.vacuum(table))
        return [*due]

    def _table(self, table: ops.Table) -> tuple[int, bool]:
        """Sweep a table; tells how many rows, and whether it was gone through as a whole."""
        number, looked = 0, 0
        at = self._at.get(table, 0)
        for statement in range(BUDGET):
            began = time.monotonic()
            done = self._executor.execute(ops.sweep(table, at, agent_id=self._agent_id))
            number += done.number
            if table not in self._at and done.pages > BUDGET * ops.PAGES:
                # Who sweeps only once must not always sweep the same part.
                at = random.randrange(done.pages)  # noqa: S311  # no secret
            elif not done.more:
                at, looked = at + ops.PAGES, looked + ops.PAGES
            if at >= done.pages:
                at = 0
            self._at[table] = at
            if looked >= done.pages:
                return number, True
            if statement + 1 < BUDGET:
                took = time.monotonic() - began
                sleep(min(PAUSE_LAST, max(PAUSE_FIRST, took)))
        return number, False

    def _repeat(self, op: Op[int], most: int) -> int:
        """Run an op until there is nothing more for it, at most so often."""
        number = 0
        for _ in range(BUDGET):
            done = self._executor.execute(op)
            number += done
            if done < most:
                break
        return number
