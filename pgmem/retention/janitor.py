"""The janitor: one of all processes with a schema applies the rules of retention, now and then.

::

    idle ──► is the lease free? ── no ──► wait an interval ──► …    (another has it)
                    │ yes
                    ▼
             elected ──► a pass of maintenance ──► wait an interval ──► …
                    │
                    ├ the lease is lost (this process stood still) ──► idle
                    ├ the server is away ──► the next pass makes up for it
                    └ the role may not ──► told once, and it ends: writes go on

What a pass does is `memory.retention.maintain`; who is elected, a lease decides.
"""

from __future__ import annotations

import random
from contextlib import suppress

import psycopg

from pgmem.core.concurrency import AsyncWakeup, AsyncWorker
from pgmem.core.database import log
from pgmem.core.names import JANITOR_LEASE
from pgmem.errors import LeaseHeld, LeaseLost, NotOpen, PermissionDenied, PgmemError
from pgmem.leases.lease import AsyncLease
from pgmem.leases.verbs import AsyncLeases
from pgmem.retention.verbs import AsyncRetention

INTERVAL = 15.0
"""Seconds between two passes, about: at random up to a third more or less."""
TTL = 60.0
"""Seconds until another process takes over from a janitor that died."""
PATIENCE = 5.0
"""Seconds that closing the memory waits for a pass under way."""


class AsyncJanitor:
    """Does maintenance in the background, if no other process does."""

    def __init__(self, leases: AsyncLeases, retention: AsyncRetention) -> None:
        self._leases = leases
        self._retention = retention
        self._stop = AsyncWakeup()
        self._closing = False
        self._worker: AsyncWorker | None = None
        self._lease: AsyncLease | None = None

    def start(self) -> None:
        """Begin, with a first pass at once if it is elected."""
        self._worker = AsyncWorker(self._run, "pgmem-janitor")

    async def close(self) -> None:
        """End, and let another process be elected."""
        self._closing = True
        self._stop.set()
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.join(PATIENCE)
        lease, self._lease = self._lease, None
        if lease is not None:
            with suppress(LeaseLost, PgmemError, psycopg.Error, OSError):  # Then it runs out.
                await lease.release()

    async def _run(self) -> None:
        while not self._closing:
            try:
                if await self._elected():
                    await self._retention.maintain()
            except PermissionDenied as error:
                log.warning("the janitor of this memory ends, writes go on: %s", error)
                return
            except NotOpen:
                return
            except (PgmemError, psycopg.Error, OSError) as error:
                log.warning("a pass of maintenance failed, the next one makes up for it: %s", error)
            except Exception:
                log.exception("a pass of maintenance ended by an error")
            await self._stop.wait(INTERVAL * random.uniform(0.67, 1.33))  # noqa: S311  # no secret

    async def _elected(self) -> bool:
        """Whether this process is the janitor now."""
        if self._lease is not None and self._lease.lost is None:
            return True
        self._lease = None
        try:
            self._lease = await self._leases.acquire(JANITOR_LEASE, ttl=TTL, timeout=0)
        except LeaseHeld:
            return False
        return True
