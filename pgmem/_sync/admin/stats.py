# Generated from pgmem/admin/stats.py by tools/generate_sync.py. Do not edit.
"""Read the statistics of a memory, part by part."""

from __future__ import annotations

from typing import Literal, TypeVar

from pgmem._sync.core.execution import PoolExecutor
from pgmem.admin import stats_ops as ops
from pgmem.admin.stats_models import Hidden, Stats
from pgmem.core.op import Op
from pgmem.errors import PermissionDenied

T = TypeVar("T")


class Statistics:
    """One reading of the statistics.

    Attributes:
        hidden: the parts that the role may not read.
    """

    def __init__(self, executor: PoolExecutor) -> None:
        self._executor = executor
        self.hidden: list[Hidden] = []

    def read(self, schema: str, durability: Literal["strict", "relaxed"]) -> Stats:
        """Read all parts that the role may read.

        Args:
            schema: the memory's schema.
            durability: the memory's durability.
        """
        execute = self._executor.execute
        found = execute(ops.tables())
        server = execute(ops.server(durability))
        sessions = execute(ops.sessions())
        writers = execute(ops.writers())
        log = self._part("log", ops.log())
        state = self._part("state", ops.state(found.pages))
        dedupe = self._part("dedupe", ops.dedupe(found.pages))
        snapshots = self._part("snapshots", ops.snapshots(found.pages))
        subscriptions = self._part("subscriptions", ops.subscriptions())
        groups = self._part("groups", ops.groups())
        leases = self._part("leases", ops.leases())
        policies = self._part("policies", ops.policies())
        return Stats(
            schema=schema,
            server=server,
            sessions=sessions,
            writers=writers,
            tables=found.tables,
            log=log,
            state=state,
            dedupe=dedupe,
            snapshots=snapshots,
            subscriptions=subscriptions,
            groups=groups,
            leases=leases,
            policies=policies,
            hidden=tuple(self.hidden),
        )

    def _part(self, name: Hidden, op: Op[T]) -> T | None:
        try:
            return self._executor.execute(op)
        except PermissionDenied:
            self.hidden.append(name)
            return None
