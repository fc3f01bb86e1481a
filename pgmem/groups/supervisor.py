"""The supervisor of a run does beside the handlers what cannot wait for them.

- Acknowledge, 5 ms after a handler returned, if its member has begun another one.
- Give back what waits behind a handler that has taken a quarter of a second.
- Renew the leases every third of a lease, with one statement for all members.
- End an attempt that takes longer than `max_runtime`: it has failed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import psycopg

from pgmem.core.concurrency import AsyncWakeup
from pgmem.core.database import log
from pgmem.errors import LeaseLost, PgmemError, Unavailable
from pgmem.groups import run_ops
from pgmem.groups.handling import OVERLONG

if TYPE_CHECKING:
    from pgmem.groups.member import AsyncMember
    from pgmem.groups.worker import AsyncGroupRun

ACKNOWLEDGE_AFTER = 0.005
"""Seconds that an acknowledgement waits for others, or for the next claim."""
GIVE_BACK_AFTER = 0.25
"""Seconds after which what waits behind a handler goes to other members."""
LEAST_ANSWER_TIMEOUT = 0.5
"""Seconds, at least, in which the server must answer a renewal, if the lease leaves time to try
again."""
LOCKED_PAUSE = 0.2
"""Seconds until a row that a transaction has locked, or that could not be renewed, is tried again.
"""


class AsyncSupervisor:
    """Does beside the handlers of a run what cannot wait for them."""

    def __init__(self, run: AsyncGroupRun) -> None:
        self._run = run
        self._clock = run.context.clock
        self._wakeup = AsyncWakeup()
        self._ended = False
        self._due = 0.0

    def end(self) -> None:
        """End. The members have ended."""
        self._ended = True
        self._wakeup.set()

    def look(self, *, soon: bool) -> None:
        """Look at a member that has begun a handler, no later than its first work is due.

        Args:
            soon: something is done or waits behind the handler.
        """
        within = ACKNOWLEDGE_AFTER if soon else self._run.options.lease / 3
        within = min(within, self._run.options.max_runtime)
        if self._clock.now() + within < self._due:
            self._wakeup.set()

    async def run(self) -> None:
        """Work until `end`."""
        while not self._ended:
            now = self._clock.now()
            # Infinite until it is computed: a member that begins meanwhile wakes the next wait.
            self._due = math.inf
            due = min((self._due_of(member) for member in self._run.members), default=math.inf)
            self._due = due
            pause = None if due == math.inf else max(0.0, due - now)
            if pause is None or pause > 0:
                await self._clock.wait(self._wakeup, pause)
            if not self._ended:
                await self.work()

    def _due_of(self, member: AsyncMember) -> float:
        """Return when a member first needs something."""
        options = self._run.options
        with member.lock:
            due = math.inf
            if _leased_batch(member):
                due = member.renewed_at + options.lease / 3
            if member.current is not None:
                due = min(due, member.begun_at + options.max_runtime)  # Infinite once it was ended.
                if member.done:
                    due = min(due, member.done_at + ACKNOWLEDGE_AFTER)
                if member.waiting:
                    due = min(due, member.begun_at + GIVE_BACK_AFTER)
            return due

    async def work(self) -> None:
        """Do what is due."""
        now = self._clock.now()
        for member in self._run.members:
            await self._acknowledge(member, now)
            await self._give_back(member, now)
            await self._end_overlong(member, now)
        await self._renew(now)

    async def _acknowledge(self, member: AsyncMember, now: float) -> None:
        with member.lock:
            due = member.current is not None and now >= member.done_at + ACKNOWLEDGE_AFTER
        if due and (done := member.take_done()):
            await member.acknowledge(done)

    async def _give_back(self, member: AsyncMember, now: float) -> None:
        with member.lock:
            due = member.current is not None and now >= member.begun_at + GIVE_BACK_AFTER
        if due:
            await member.give_back(member.take_waiting())

    async def _end_overlong(self, member: AsyncMember, now: float) -> None:
        longest = self._run.options.max_runtime
        with member.lock:
            delivery = member.current
            if delivery is None or now < member.begun_at + longest:
                return
            member.begun_at = math.inf  # Once.
        error = f"the handler took longer than max_runtime={longest:g} s"
        log.warning(
            "position %d of the group %r: %s, so another member may handle it",
            delivery.event.position,
            self._run.group.name,
            error,
        )
        try:
            await self._run.group.nack(
                [delivery], delay=self._run.group.retry.delay(delivery.attempts), error=error
            )
            delivery._settled = OVERLONG
        except LeaseLost as lost:
            log.debug("position %d went back before: %s", delivery.event.position, lost)
        except (PgmemError, psycopg.Error, OSError) as failure:
            # Its lease is not renewed any more.
            log.warning("position %d could not be given back: %s", delivery.event.position, failure)

    async def _renew(self, now: float) -> None:
        """Renew the leases that are due or soon will be."""
        lease = self._run.options.lease
        due: dict[AsyncMember, tuple[int, int]] = {}
        for member in self._run.members:
            with member.lock:
                if leased := _leased_batch(member):
                    due[member] = leased
        if not any(member.renewed_at + lease / 3 <= now for member in due):
            return
        due = {member: due[member] for member in due if member.renewed_at + lease / 4 <= now}
        again = now - lease / 3 + min(LOCKED_PAUSE, lease / 6)
        try:
            renewed = await self._ask(list(due.values()), lease)
        except (PgmemError, psycopg.Error, OSError) as error:
            log.warning("leases of %r could not be renewed: %s", self._run.group, error)
            renewed = {}
        for member, (batch, _) in due.items():
            found = renewed.get(batch)
            with member.lock:
                member.renewed_at = again if found is None or found.expires_at is None else now

    async def _ask(
        self, batches: list[tuple[int, int]], lease: float
    ) -> dict[int, run_ops.RenewedBatch]:
        executor = self._run.context.reader.executor
        op: Any = run_ops.renew(self._run.group.options, batches, lease=lease)
        # A renewal begins two thirds of the lease before its end: a second try has one.
        timeout = max(lease / 6, min(LEAST_ANSWER_TIMEOUT, lease / 3))
        try:
            return await executor.execute(op, answer_timeout=timeout)
        except Unavailable:
            # Handlers may have all connections of the pool.
            return await executor.execute_apart(op)


def _leased_batch(member: AsyncMember) -> tuple[int, int] | None:
    """Return the batch of a member that holds events which are not yet ended in any way."""
    runs = member.current is not None and member.begun_at != math.inf
    return member.batch if runs or member.waiting or member.done else None
