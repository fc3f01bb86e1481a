# Generated from pgmem/events/durable_lease.py by tools/generate_sync.py. Do not edit.
"""The lease that a durable subscription holds.

Renews the lease in the background, and finds out when it is lost. The SQL and the states of the row
are in `pgmem.events.durable_ops`. No local clock decides whether a lease is still held: only the
server does, by the fencing token.

One `SubscriptionLease` is one period of ownership::

              try_acquire: None
        new ────────────────────► held ──── release ────► released
         ▲ │ try_acquire:          │                        ▲
         └─┘ seconds to wait       │ commit or renewal      │ release
                                   │ refused                │
                                   └───────► lost ──────────┘

    renewal    every lease/3. If the row is locked or the connection is lost, it is tried again
               soon, without end. If it is refused, `on_lost` is called once and it ends.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

import psycopg

from pgmem._sync.core.database import log
from pgmem._sync.core.execution import Executor, PoolExecutor
from pgmem._sync.core.transaction import TransactionExecutor
from pgmem.core.concurrency import GRACE, Lock, Wakeup, Worker, sleep
from pgmem.core.history import History
from pgmem.core.validation import Seconds
from pgmem.errors import HistoryRewritten, LeaseLost, NotOpen, PgmemError
from pgmem.events import durable_ops as ops

MAX_WAIT = 1.0
"""Seconds between two tries to acquire, at most. A release is noticed within them."""

RETRY = 1.0
"""Seconds until a renewal that failed or found the row locked is tried again, at most."""

STOP_TIMEOUT = 1.0
"""Seconds that a release waits for a renewal under way."""

RELEASE_TRIES = 5
RELEASE_PAUSE = 0.1


def owner_name(agent_id: str | None) -> str:
    """Return the owner's name for others to read: host, process, and agent if there is one."""
    process = f"{socket.gethostname()}:{os.getpid()}"
    return process if agent_id is None else f"{process} {agent_id}"


class SubscriptionLease:
    """One period of ownership of a durable subscription. Each subscription object has one.

    Args:
        executor: executes what is not in a caller's transaction.
        name: the subscription's name, 1 to 512 bytes.
        wanted: its filter, as a JSON object. It must be the same each time.
        start: the position of a new subscription.
        lease: seconds without a renewal after which others may take over, at most a day.
        owner: this process, for others to read (see `owner_name`).
        on_lost: called once, by the renewal or a commit, when the lease is lost. In the
            synchronous form it may be called on another thread.
        on_promotion: called when the server is on a later timeline. It raises `HistoryRewritten` if
            the server does not hold what this process has read.
        on_failover: "refuse" to raise `HistoryRewritten` after a promotion in any case.

    Attributes:
        position: the stored position to go on from, as of the acquisition.
        token: the fencing token; 0 before the acquisition.
        created_at: when the subscription was first used; None before the acquisition.
        history: the history of the log that `position` belongs to; None before.
        lost: the error by which the lease was lost, or None.

    Raises:
        InvalidInput, InvalidValue: an argument that is not allowed.
    """

    def __init__(
        self,
        executor: PoolExecutor,
        name: str,
        wanted: dict[str, Any],
        *,
        start: int,
        lease: Seconds,
        owner: str,
        on_lost: Callable[[PgmemError], None],
        on_promotion: Callable[[History], None],
        on_failover: ops.OnFailover = "continue",
    ) -> None:
        self._executor = executor
        self._name = name
        self._lease = ops.check_lease(lease)
        self._on_lost = on_lost
        self._on_promotion = on_promotion
        # The owner is unique to this object, which so recognizes an acquisition whose answer
        # was lost.
        self._acquire = ops.acquire(
            name,
            wanted,
            start=start,
            lease=self._lease,
            owner=f"{owner} #{uuid.uuid4().hex[:8]}",
            on_failover=on_failover,
        )
        self._held: ops.Ownership | None = None
        self._released = False
        self._sure_until = 0.0
        self._warned = False
        self._stop = Wakeup()
        self._worker: Worker | None = None
        self._losing = Lock()
        self.position = start
        self.token = 0
        self.created_at: datetime | None = None
        self.history: History | None = None
        self.lost: PgmemError | None = None

    def try_acquire(self) -> float | None:
        """Take the subscription if no other process holds it.

        If the last owner's lease has run out and a transaction in which it committed a position is
        open, this waits for the end of that transaction. If the call is cancelled while the
        answer is under way, the subscription may have been acquired. It is then given back in the
        background.

        Returns:
            None if it is acquired; else the seconds to wait before the next try, at most 1.

        Raises:
            AlreadyExists: it was created with another filter.
            HistoryRewritten: its position was made in another history of the log.
            NotOpen: this lease was released.
        """
        if self._held is not None:
            return None
        self._refuse_released()
        before = time.monotonic()
        try:
            answer = self._executor.execute(self._acquire)
        except Exception:
            raise
        except BaseException:
            self._executor.background.run_for(GRACE, self._give_back)
            raise
        if isinstance(answer, ops.HeldByOther):
            return min(max(answer.remaining, 0.01), MAX_WAIT)
        self._sure_until = before + self._lease
        self.position, self.token = answer.position, answer.token
        self.created_at, self.history = answer.created_at, answer.history
        # Set the ownership, then check for a release. `release` does it in the opposite order,
        # so neither can miss the other.
        self._held = answer
        if self._released:
            self.release()
            self._refuse_released()
        self._worker = Worker(self._renew_all, f"pgmem-subscription-{self._name[:40]}")
        return None

    def _give_back(self) -> None:
        """Release what a cancelled acquisition may have acquired, in the name of this owner."""
        try:
            answer = self._executor.execute(self._acquire)
            if not isinstance(answer, ops.HeldByOther):
                self._executor.execute(ops.release(answer))
        except (PgmemError, psycopg.Error, OSError) as error:
            log.warning(
                "the subscription %r may be held until its lease of %g s runs out: %s",
                self._name,
                self._lease,
                error,
            )

    def _refuse_released(self) -> None:
        if self._released:
            raise NotOpen(
                f"the lease of the subscription {self._name!r} was released: make another"
            )

    def commit(self, position: int, bound: TransactionExecutor | None = None) -> None:
        """Store that every event up to `position` is handled, and extend the lease.

        Args:
            position: a higher one that is stored stays.
            bound: a transaction to do it in. The position is stored if and only if it commits.
                Until its end no other process can take over.

        Raises:
            LeaseLost: another process holds the subscription.
            HistoryRewritten: the server's history is not the one that it was acquired in.
            InvalidInput: `position` is negative.
            NotOpen: not acquired, or released.
        """
        if self._held is None or self._released:
            raise NotOpen(
                f"commit by the subscription {self._name!r}: it is not acquired, or was released"
            )
        executor: Executor = self._executor if bound is None else bound
        try:
            while promoted := executor.execute(ops.commit(self._held, position, lease=self._lease)):
                self._go_on(promoted)
        except (LeaseLost, HistoryRewritten) as error:
            self._lose(error)
            raise

    def _go_on(self, promoted: ops.Promoted) -> None:
        """Go on in a later timeline, if it holds what this process has read."""
        self._on_promotion(promoted.history)
        if self._held is not None:
            self._held = self._held._replace(history=promoted.history)
            self.history = promoted.history

    def release(self) -> None:
        """Release the subscription, so that another process gets it at once.

        A second call does nothing. If the server cannot be reached, or a transaction that has
        committed a position is still open, the lease runs out. No error of the server is raised.
        After a cancellation it goes on in the background.
        """
        try:
            self._release()
        except Exception:
            raise
        except BaseException:
            self._executor.background.run_for(GRACE, self._release)
            raise

    def _release(self) -> None:
        self._released = True
        self._stop.set()
        if self._worker is not None and not self._worker.is_current:
            self._worker.join(STOP_TIMEOUT)
        self._worker = None
        if self._held is None or self.lost is not None:
            return
        try:
            for _ in range(RELEASE_TRIES):
                if self._executor.execute(ops.release(self._held)):
                    self._held = None
                    return
                sleep(RELEASE_PAUSE)
            why = "a transaction that has committed a position in it is still open"
        except (PgmemError, psycopg.Error, OSError) as error:
            why = str(error)
        log.warning(
            "the subscription %r could not be released, its lease of %g s runs out: %s",
            self._name,
            self._lease,
            why,
        )

    def _renew_all(self) -> None:
        """Renew until stopped or lost."""
        pause: float | None = self._lease / 3
        while pause is not None and not self._stop.wait(pause):
            pause = self._renew()

    def _renew(self) -> float | None:
        """Renew once. Return the seconds until the next time, or None to end."""
        assert self._held is not None  # noqa: S101  # the worker begins after it is set
        before = time.monotonic()
        interval = self._lease / 3
        why = "its row is locked"
        try:
            renewed = self._executor.execute(ops.renew(self._held, lease=self._lease))
            if isinstance(renewed, ops.Promoted):
                self._go_on(renewed)
                return 0.0
            if renewed:
                self._sure_until, self._warned = before + self._lease, False
                return interval
        except (LeaseLost, HistoryRewritten) as error:
            self._lose(error)
            return None
        except NotOpen:
            return None  # The memory was closed. The lease runs out.
        except (PgmemError, psycopg.Error, OSError) as error:
            why = str(error)
        # The lease is held until another process takes over, and only the server knows that.
        # So the renewal never gives up.
        if time.monotonic() > self._sure_until and not self._warned:
            self._warned = True
            log.warning(
                "the lease of the subscription %r could not be renewed and has run out; it is "
                "still held until another process takes over: %s",
                self._name,
                why,
            )
        return min(interval, RETRY)

    def _lose(self, error: LeaseLost | HistoryRewritten) -> None:
        with self._losing:
            if self.lost is not None:
                return
            self.lost = error
        self._stop.set()
        self._on_lost(error)
