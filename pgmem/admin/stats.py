"""`memory.stats()`: how the memory stands, read part by part.

What to run is `pgmem.admin.stats_ops`.
"""

from __future__ import annotations

from typing import Literal, TypeVar

from pgmem.admin import stats_ops as ops
from pgmem.admin.stats_models import Hidden, Stats
from pgmem.core.execution import AsyncPoolExecutor
from pgmem.core.op import Op
from pgmem.errors import PermissionDenied

T = TypeVar("T")


class AsyncStatistics:
    """One reading of the statistics.

    Attributes:
        hidden: what the role was refused.
    """

    def __init__(self, executor: AsyncPoolExecutor) -> None:
        self._executor = executor
        self.hidden: list[Hidden] = []

    async def read(self, schema: str, durability: Literal["strict", "relaxed"]) -> Stats:
        """Read all parts, but those that the role may not read.

        Args:
            schema: the memory's schema.
            durability: the memory's durability.
        """
        execute = self._executor.execute
        found = await execute(ops.tables())
        server = await execute(ops.server(durability))
        sessions = await execute(ops.sessions())
        writers = await execute(ops.writers())
        log = await self._part("log", ops.log())
        state = await self._part("state", ops.state(found.pages))
        dedupe = await self._part("dedupe", ops.dedupe(found.pages))
        snapshots = await self._part("snapshots", ops.snapshots(found.pages))
        consumers = await self._part("consumers", ops.consumers())
        groups = await self._part("groups", ops.groups())
        leases = await self._part("leases", ops.leases())
        policies = await self._part("policies", ops.policies())
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

    async def _part(self, name: Hidden, op: Op[T]) -> T | None:
        try:
            return await self._executor.execute(op)
        except PermissionDenied:
            self.hidden.append(name)
            return None
