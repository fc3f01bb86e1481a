# Generated from pgmem/retention/janitor.py by tools/generate_sync.py. Do not edit.
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

from pgmem._sync.core.database import log
from pgmem._sync.leases.lease import Lease
from pgmem._sync.leases.verbs import Leases
from pgmem._sync.retention.verbs import Retention
from pgmem.core.concurrency import Wakeup, Worker
from pgmem.core.names import JANITOR_LEASE
from pgmem.errors import LeaseHeld, LeaseLost, NotOpen, PermissionDenied, PgmemError

INTERVAL = 15.0
"""Seconds between two passes, about: at random up to a third more or less."""
TTL = 60.0
"""Seconds until another process takes over from a janitor that died."""
PATIENCE = 5.0
"""Seconds that closing the memory waits for a pass under way."""


class Janitor:
    """Does maintenance in the background, if no other process does."""

    def __init__(self, leases: Leases, retention: Retention) -> None:
        self._leases = leases
        self._retention = retention
        self._stop = Wakeup()
        self._closing = False
        self._worker: Worker | None = None
        self._lease: Lease | None = None

    def start(self) -> None:
        """Begin, with a first pass at once if it is elected."""
        self._worker = Worker(self._run, "pgmem-janitor")

    def close(self) -> None:
        """End, and let another process be elected."""
        self._closing = True
        self._stop.set()
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.join(PATIENCE)
        lease, self._lease = self._lease, None
        if lease is not None:
            with suppress(LeaseLost, PgmemError, psycopg.Error, OSError):  # Then it runs out.
                lease.release()

    def _run(self) -> None:
        while not self._closing:
            try:
                if self._elected():
                    self._retention.maintain()
            except PermissionDenied as error:
                log.warning("the janitor of this memory ends, writes go on: %s", error)
                return
            except NotOpen:
                return
            except (PgmemError, psycopg.Error, OSError) as error:
                log.warning("a pass of maintenance failed, the next one makes up for it: %s", error)
            except Exception:
                log.exception("a pass of maintenance ended by an error")
            self._stop.wait(INTERVAL * random.uniform(0.67, 1.33))  # noqa: S311  # no secret

    def _elected(self) -> bool:
        """Whether this process is the janitor now."""
        if self._lease is not None and self._lease.lost is None:
            return True
        self._lease = None
        try:
            self._lease = self._leases.acquire(JANITOR_LEASE, ttl=TTL, timeout=0)
        except LeaseHeld:
            return False
        return True
