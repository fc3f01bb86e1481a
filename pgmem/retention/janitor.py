"""Apply retention in the background, in one of all processes with a schema.

::

    idle ──► acquire the lease ── held by another ──► wait an interval ──► …
                    │ acquired
                    ▼
             janitor ──► a pass of maintenance ──► wait an interval ──► …
                    │
                    ├ the lease is lost (this process stood still) ──► idle
                    ├ the server is unavailable ──► the next pass makes up for it
                    └ the role lacks the right ──► one warning, and the worker ends
"""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Final, NamedTuple

import psycopg

from pgmem.core.concurrency import AsyncWakeup, AsyncWorker
from pgmem.core.database import log
from pgmem.core.names import JANITOR_LEASE
from pgmem.errors import LeaseHeld, LeaseLost, NotOpen, PermissionDenied, PgmemError
from pgmem.leases.lease import AsyncLease
from pgmem.leases.verbs import AsyncLeases
from pgmem.retention.verbs import AsyncRetention


class JanitorTiming(NamedTuple):
    """The times of a janitor, in seconds.

    Attributes:
        interval: between two passes; a random third more or less.
        ttl: until another process takes over from a janitor that died.
        close_timeout: how long closing the memory waits for a pass under way.
    """

    interval: float = 15.0
    ttl: float = 60.0
    close_timeout: float = 5.0


TIMING: Final = JanitorTiming()


class AsyncJanitor:
    """Do maintenance in the background while this process holds the janitor's lease."""

    def __init__(
        self,
        leases: AsyncLeases,
        retention: AsyncRetention,
        timing: JanitorTiming = TIMING,
    ) -> None:
        self._leases = leases
        self._retention = retention
        self._timing = timing
        self._stop = AsyncWakeup()
        self._closing = False
        self._worker: AsyncWorker | None = None
        self._lease: AsyncLease | None = None

    def start(self) -> None:
        """Start the worker. If it gets the lease, the first pass comes at once."""
        self._closing = False
        self._worker = AsyncWorker(self._run, "pgmem-janitor")

    async def close(self) -> None:
        """Stop the worker and release the lease."""
        self._closing = True
        self._stop.set()
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.join(self._timing.close_timeout)
        lease, self._lease = self._lease, None
        if lease is not None:
            with suppress(LeaseLost, PgmemError, psycopg.Error, OSError):  # Then it runs out.
                await lease.release()

    async def _run(self) -> None:
        while not self._closing:
            try:
                if await self._is_janitor():
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
            pause = self._timing.interval * random.uniform(0.67, 1.33)  # noqa: S311  # no secret
            await self._stop.wait(pause)

    async def _is_janitor(self) -> bool:
        """Return True if this process holds the lease, after trying to acquire it."""
        if self._lease is not None and self._lease.lost is None:
            return True
        self._lease = None
        try:
            self._lease = await self._leases.acquire(JANITOR_LEASE, ttl=self._timing.ttl, timeout=0)
        except LeaseHeld:
            return False
        return True
