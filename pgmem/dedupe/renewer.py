"""Renew the claims that a memory holds, so that work may take longer than its lease.

One worker for all of them, as for leases. Every third of a claim's lease it renews the claims that
are due, with one statement. A claim is renewed until it is completed or released, the caller drops
the `Claim`, or the memory is closed. If the process dies, the claim ends within one lease.
"""

from __future__ import annotations

import math
import time
import weakref

import psycopg

from pgmem.core.concurrency import AsyncWakeup, AsyncWorker, Lock
from pgmem.core.database import log
from pgmem.core.execution import AsyncPoolExecutor
from pgmem.dedupe import ops
from pgmem.dedupe.models import Claim
from pgmem.errors import NotOpen, PgmemError

RETRY = 1.0
"""Seconds, at most, until a failed renewal is repeated."""

LOCKED_PAUSE = 0.02
"""Seconds until a renewal that found the row locked is repeated."""

MIN_PAUSE = 0.001
"""Seconds: other tasks and threads run, however much is overdue."""

MIN_ANSWER_TIMEOUT = 0.5
"""Seconds, at least, in which the server must answer, if the lease leaves time for a second try.
After that another connection is tried."""


class _Renewal:
    """When a claim is to be renewed next."""

    def __init__(self, claim: Claim, lease: float) -> None:
        self.claim = weakref.ref(claim)
        self.lease = lease
        self.renew_at = time.monotonic() + lease / 3
        self.warned = False

    def failed(self, key: str, error: Exception) -> None:
        """Plan another try."""
        self.renew_at = time.monotonic() + min(self.lease / 12, RETRY)
        if not self.warned:
            self.warned = True
            log.warning("could not renew the claim of %r, trying again: %s", key, error)


class AsyncClaimRenewer:
    """The worker for a memory's claims.

    Args:
        executor: executes the renewals.
    """

    def __init__(self, executor: AsyncPoolExecutor) -> None:
        self._executor = executor
        self._lock = Lock()
        self._wakeup = AsyncWakeup()
        self._worker: AsyncWorker | None = None
        self._closing = False
        self._renewals: dict[int, _Renewal] = {}
        self._wakes_at = math.inf

    def add(self, claim: Claim, lease: float) -> None:
        """Renew a claim from now on.

        Args:
            claim: the claim. Only a weak reference to it is kept.
            lease: seconds for which each renewal holds.
        """
        with self._lock:
            self._closing = False  # The memory may have been opened again.
            renewal = self._renewals[claim.token] = _Renewal(claim, lease)
            if self._worker is None or not self._worker.alive:
                self._worker = AsyncWorker(self._run, "pgmem-claims")
            elif renewal.renew_at < self._wakes_at:
                self._wakeup.set()

    def remove(self, claim: Claim) -> None:
        """Stop renewing a claim."""
        with self._lock:
            self._renewals.pop(claim.token, None)

    async def close(self) -> None:
        """Stop the worker. The claims run out."""
        with self._lock:
            self._closing = True
            self._renewals.clear()
            worker, self._worker = self._worker, None
        if worker is not None:
            self._wakeup.set()
            await worker.join(2.0)

    async def _run(self) -> None:
        while not self._closing:
            due = self._next()
            pause = None if due == math.inf else max(MIN_PAUSE, due - time.monotonic())
            await self._wakeup.wait(pause)
            if self._closing:
                return
            try:
                await self._renew()
            except NotOpen:
                return  # The memory was closed: the claims run out.

    def _next(self) -> float:
        """Return when the next renewal is due."""
        with self._lock:
            times = [renewal.renew_at for renewal in self._renewals.values()]
            self._wakes_at = min(times, default=math.inf)
            return self._wakes_at

    async def _renew(self) -> None:
        """Renew the claims that are due or soon will be."""
        due = self._due()
        if not due:
            return
        # A renewal begins two thirds of the lease before its end: a second try has one.
        lease = min(renewal.lease for _, renewal in due)
        timeout = max(lease / 9, min(MIN_ANSWER_TIMEOUT, lease / 3))
        op = ops.renew([claim for claim, _ in due], [renewal.lease for _, renewal in due])
        try:
            answers = await self._executor.execute(op, answer_timeout=timeout)
        except NotOpen:
            raise
        except (PgmemError, psycopg.Error, OSError) as error:
            for claim, renewal in due:
                renewal.failed(claim.key, error)
            return
        now = time.monotonic()
        for claim, renewal in due:
            renewed = answers[claim.token]
            renewal.warned = False
            renewal.renew_at = now + (LOCKED_PAUSE if renewed is None else renewal.lease / 3)
            if renewed is False:
                self._lost(claim)

    def _due(self) -> list[tuple[Claim, _Renewal]]:
        now = time.monotonic()
        with self._lock:
            held = [(renewal.claim(), token) for token, renewal in self._renewals.items()]
            for claim, token in held:
                if claim is None:  # The caller has dropped it: it runs out.
                    del self._renewals[token]
            soon = [
                (claim, self._renewals[token])
                for claim, token in held
                if claim is not None
                and self._renewals[token].renew_at <= now + self._renewals[token].lease / 30
            ]
        return soon if any(renewal.renew_at <= now for _, renewal in soon) else []

    def _lost(self, claim: Claim) -> None:
        with self._lock:
            known = self._renewals.pop(claim.token, None)
        if known is not None:  # It was not completed or released while the answer was under way.
            log.warning(
                "the claim of %r with the token %d was lost: another caller may do its work",
                claim.key,
                claim.token,
            )
