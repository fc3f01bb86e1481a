# Generated from pgmem/admin/stats.py by tools/generate_sync.py. Do not edit.
"""`memory.stats()`: how the memory stands, read part by part.

What to run is `pgmem.admin.stats_ops`.
"""

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
        hidden: what the role was refused.
    """

    def __init__(self, executor: PoolExecutor) -> None:
        self._executor = executor
        self.hidden: list[Hidden] = []

    def read(self, schema: str, durability: Literal["strict", "relaxed"]) -> Stats:
        """Read all parts, but those that the role may not read.

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
        consumers = self._part("consumers", ops.consumers())
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
            consumers=consumers,
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
