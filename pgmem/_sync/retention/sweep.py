# Generated from pgmem/retention/sweep.py by tools/generate_sync.py. Do not edit.
"""Remove expired rows, a bounded part of a table at a time.

::

    pages   0 …      at ──► … end, 0 … ──► at     one round is complete
                      └─ BUDGET statements ─┘     otherwise the next sweep goes on there

`pgmem.retention.sweep_ops` decides what has expired.
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
"""Statements in one sweep of a table. Each reads `sweep_ops.PAGES` pages."""
MIN_PAUSE, MAX_PAUSE = 0.001, 0.1
"""Seconds. After a statement the sweep pauses for as long as it took, within these bounds."""


class Sweeper:
    """Sweep the tables, and remember the page to go on from in each."""

    def __init__(self, executor: PoolExecutor, agent_id: str | None) -> None:
        self._executor = executor
        self._agent_id = agent_id
        self._at: dict[ops.Table, int] = {}

    def sweep(self, due: ops.Due, kinds: Collection[PolicyKind]) -> SweepReport:
        """Sweep once.

        Args:
            due: what is to be swept.
            kinds: the kinds that have a policy.

        Raises:
            PermissionDenied: the role lacks the right.
        """
        found = dict.fromkeys(ops.TABLES, (0, True))
        found |= {table: self._table(table) for table in due.tables}
        folds = self._repeat(ops.sweep_folds(), ops.MAX_ROWS) if "folds" in kinds else 0
        snapshots = self._repeat(ops.sweep_snapshots(), 1) if "snapshots" in kinds else 0
        return SweepReport(
            expired_keys=found["dedupe"][0],
            expired_entries=found["state"][0],
            leases=found["leases"][0],
            limits=found["limits"][0],
            batches=self._repeat(ops.sweep_batches(), ops.MAX_ROWS) if due.batches else 0,
            folds=folds,
            snapshots=snapshots,
            complete=all(complete for _, complete in found.values()),
        )

    def vacuum(self) -> list[str]:
        """Vacuum the tables for which autovacuum would come too late, and return their names.

        It uses connections of its own, because it may take seconds and writers need the pool's.
        """
        due = self._executor.execute(ops.vacuum_due())
        for table in due:
            self._executor.execute_apart(ops.vacuum(table))
        return [*due]

    def _table(self, table: ops.Table) -> tuple[int, bool]:
        """Sweep a table. Return the number of rows, and True if all of its pages were swept."""
        number, pages = 0, 0
        at = self._at.get(table, 0)
        for statement in range(BUDGET):
            began = time.monotonic()
            done = self._executor.execute(ops.sweep(table, at, agent_id=self._agent_id))
            number += done.number
            if table not in self._at and done.pages > BUDGET * ops.PAGES:
                # A process that sweeps only once must not always sweep the same part.
                at = random.randrange(done.pages)  # noqa: S311  # no secret
            elif not done.more:
                at, pages = at + ops.PAGES, pages + ops.PAGES
            if at >= done.pages:
                at = 0
            self._at[table] = at
            if pages >= done.pages:
                return number, True
            if statement + 1 < BUDGET:
                took = time.monotonic() - began
                sleep(min(MAX_PAUSE, max(MIN_PAUSE, took)))
        return number, False

    def _repeat(self, op: Op[int], limit: int) -> int:
        """Execute an op until it removes fewer than `limit` rows, at most `BUDGET` times."""
        number = 0
        for _ in range(BUDGET):
            done = self._executor.execute(op)
            number += done
            if done < limit:
                break
        return number
