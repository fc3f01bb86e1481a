# Generated from pgmem/events/durable_lease.py by tools/generate_sync.py. Do not edit.
"""`memory.consumers`, and the lease that a subscription holds on one of them.

Keeps a lease alive in the background and finds out when it is lost; what to run is
`pgmem.events.durable_ops`, which draws the row's states. It delivers no events, and decides by no
clock of its own whether a lease is still ours: only the server, by the token, does that.

One `ConsumerLease` is one time of holding::

              try_acquire: None
        new ────────────────────► held ──── release ────► released
         ▲ │ try_acquire:          │                        ▲
         └─┘ seconds to wait       │ commit or renewal:     │ release
                                   │ not ours any more      │
                                   └───────► lost ──────────┘

    renewal    every lease/3; on a locked row or a lost connection again soon, without end;
               when it is not ours any more, `on_lost` once, and it ends
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
from pgmem._sync.core.execution import Executor, PoolExecutor, TransactionExecutor
from pgmem.core.concurrency import Lock, Wakeup, Worker, sleep
from pgmem.core.history import History
from pgmem.core.validation import Seconds
from pgmem.errors import HistoryRewritten, LeaseLost, NotOpen, PgmemError
from pgmem.events import durable_ops as ops
from pgmem.events.models import ConsumerInfo

MAX_WAIT = 1.0
"""Seconds between two tries to acquire: a release is noticed within them."""

RETRY = 1.0
"""Seconds, at most, until a renewal that failed or found the row locked is tried again."""

STOP_PATIENCE = 1.0
"""Seconds that a release waits for a renewal under way."""

RELEASE_TRIES = 5
RELEASE_PAUSE = 0.1


def owner_name(agent_id: str | None) -> str:
    """Who holds a consumer, for others to read: host, process, and agent if there is one."""
    process = f"{socket.gethostname()}:{os.getpid()}"
    return process if agent_id is None else f"{process} {agent_id}"


class Consumers:
    """Named positions in the log. Reached as `memory.consumers`."""

    def __init__(self, executor: PoolExecutor) -> None:
        self._executor = executor

    def list(self) -> list[ConsumerInfo]:
        """All consumers, in the order of their names."""
        return self._executor.execute(ops.list_consumers())

    def get(self, name: str) -> ConsumerInfo | None:
        """One consumer, or None if there is none of that name.

        Args:
            name: its name, 1 to 512 bytes.
        """
        return self._executor.execute(ops.get(name))

    def reset(self, name: str, after: int | None = None) -> None:
        """Accept the present history of the log for a consumer, and move it if told to.

        Whoever holds it loses it (`LeaseLost`), and the next one goes on from the position. An
        open transaction that has committed a position is waited for.

        Args:
            name: its name, 1 to 512 bytes.
            after: the position to go on from: the events above it come next. None keeps it,
                but for a position that the log does not reach any more: then its head.

        Raises:
            NotFound: there is none of that name.
            InvalidInput: `after` is above the last position of the log.
            OutcomeUnknown: the connection was lost under way; reset it again.
        """
        self._executor.execute(ops.reset(name, after=after))

    def delete(self, name: str) -> bool:
        """Forget a consumer and its position; whoever holds it loses it (`LeaseLost`).

        Args:
            name: its name, 1 to 512 bytes.

        Returns:
            Whether there was one.

        Raises:
            OutcomeUnknown: the connection was lost under way; `get` tells.
        """
        return self._executor.execute(ops.delete(name))


class ConsumerLease:
    """One time of holding a consumer. Not public: a subscription has one.

    Args:
        runner: runs what is not in a caller's transaction.
        name: the consumer's name, 1 to 512 bytes.
        selection: what it follows, as a JSON object: the same each time.
        start: the position of a consumer that is new.
        lease: seconds that nobody may take over after a sign of life, at most a day.
        owner: who we are, for others to read (see `owner_name`).
        on_lost: told once, from the renewal or from a commit, that the consumer is lost. In the
            form for threads, that may be another thread.

    Attributes:
        position: where to go on from, as it was stored when the consumer was acquired.
        token: the fencing token; 0 before.
        created_at: when the consumer was first used; None before it was acquired.
        history: the history of the log that `position` belongs to; None before.
        lost: why the consumer is not ours any more, or None.

    Raises:
        InvalidInput, InvalidValue: an argument that is not allowed.
    """

    def __init__(
        self,
        executor: PoolExecutor,
        name: str,
        selection: dict[str, Any],
        *,
        start: int,
        lease: Seconds,
        owner: str,
        on_lost: Callable[[PgmemError], None],
    ) -> None:
        self._executor = executor
        self._name = name
        self._lease = ops.check_lease(lease)
        self._on_lost = on_lost
        # Only this object has this owner: so it knows an acquisition whose answer was lost.
        self._acquire = ops.acquire(
            name,
            selection,
            start=start,
            lease=self._lease,
            owner=f"{owner} #{uuid.uuid4().hex[:8]}",
        )
        self._held: ops.Held | None = None
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
        """Take the consumer if nobody holds it.

        Where the last holder's lease has run out and its transaction is open, this waits for the
        transaction's end. Cancelled while the answer is under way, it may have been acquired all
        the same: then the lease runs out.

        Returns:
            None if it is ours now; else the seconds to wait before the next try, at most 1.

        Raises:
            AlreadyExists: it was made with another selection.
            HistoryRewritten: its position was made in another history of the log.
            NotOpen: this lease was released.
        """
        if self._held is not None:
            return None
        self._refuse_released()
        before = time.monotonic()
        answer = self._executor.execute(self._acquire)
        if isinstance(answer, ops.Busy):
            return min(max(answer.remaining, 0.01), MAX_WAIT)
        self._sure_until = before + self._lease
        self.position, self.token = answer.position, answer.token
        self.created_at, self.history = answer.created_at, answer.history
        # In this order, and `release` the other way round: one of the two sees the other.
        self._held = answer
        if self._released:
            self.release()
            self._refuse_released()
        self._worker = Worker(self._keep, f"pgmem-consumer-{self._name[:40]}")
        return None

    def _refuse_released(self) -> None:
        if self._released:
            raise NotOpen(f"the lease of the consumer {self._name!r} was released: make another")

    def commit(self, position: int, bound: TransactionExecutor | None = None) -> None:
        """Store that every event up to `position` is done, and keep the lease.

        Args:
            position: not below the stored one.
            bound: a transaction to do it in: the position then commits with what else is done
                there, or not at all. Until its end nobody else can take over.

        Raises:
            LeaseLost: somebody else has taken over.
            HistoryRewritten: the server's history is not the one that it was acquired in.
            InvalidInput: a higher position is stored, or `position` is negative.
            NotOpen: not acquired, or released.
        """
        if self._held is None or self._released:
            raise NotOpen(f"commit by the consumer {self._name!r}: it is not held (any more)")
        executor: Executor = self._executor if bound is None else bound
        try:
            executor.execute(ops.commit(self._held, position, lease=self._lease))
        except (LeaseLost, HistoryRewritten) as error:
            self._lose(error)
            raise

    def release(self) -> None:
        """Give the consumer back, so that another one gets it at once; again is harmless.

        Never raises an error of the server: where it is away, the lease runs out by itself. So it
        does where a transaction that has committed a position is still open.
        """
        self._released = True
        self._stop.set()
        if self._worker is not None and not self._worker.here:
            self._worker.join(STOP_PATIENCE)
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
            "the consumer %r could not be given back, its lease of %g s runs out: %s",
            self._name,
            self._lease,
            why,
        )

    def _keep(self) -> None:
        """Renew until stopped or lost."""
        pause: float | None = self._lease / 3
        while pause is not None and not self._stop.wait(pause):
            pause = self._renew()

    def _renew(self) -> float | None:
        """Renew once; gives the seconds until the next time, or None if there is none."""
        assert self._held is not None  # noqa: S101  # the worker begins after it is set
        before = time.monotonic()
        interval = self._lease / 3
        why = "its row is locked"
        try:
            if self._executor.execute(ops.renew(self._held, lease=self._lease)):
                self._sure_until, self._warned = before + self._lease, False
                return interval
        except (LeaseLost, HistoryRewritten) as error:
            self._lose(error)
            return None
        except NotOpen:
            return None  # The memory was closed: nobody can use the lease, it runs out.
        except (PgmemError, psycopg.Error, OSError) as error:
            why = str(error)
        # Ours until somebody takes over, and only the server knows: so never give up.
        if time.monotonic() > self._sure_until and not self._warned:
            self._warned = True
            log.warning(
                "the lease of the consumer %r could not be renewed and has run out; it is ours "
                "until another one takes over: %s",
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
