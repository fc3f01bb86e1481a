"""Read the statistics of a memory, part by part."""

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
        hidden: the parts that the role may not read.
    """

    def __init__(self, executor: AsyncPoolExecutor) -> None:
        self._executor = executor
        self.hidden: list[Hidden] = []

    async def read(self, schema: str, durability: Literal["strict", "relaxed"]) -> Stats:
        """Read all parts that the role may read.

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
        subscriptions = await self._part("subscriptions", ops.subscriptions())
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
            subscriptions=subscriptions,
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
