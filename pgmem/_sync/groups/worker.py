# Generated from pgmem/groups/worker.py by tools/generate_sync.py. Do not edit.
"""The loop behind `group.run`: read, call the handler, acknowledge, until told to stop.

::

    running ──── SIGTERM, SIGINT, group.stop() ────► stopping ──► ended
       │                                                │
       │ each member: read a batch ─► call the          │ no more batches; running handlers
       │   handler for each event ─► acknowledge        │ end; events that were not begun go
       │   with the next read                           │ back uncounted; the rest is acknowledged
       │
       ├ handler raises ──────────► given back with a growing delay; in the end a dead letter
       ├ LeaseLost at the end ────► logged, counted as lost: another member handles it again
       ├ server unreachable ──────► tried again, for ever
       └ group deleted, trimmed … ► every member stops, run raises the error

A member does not extend leases by itself, so an event whose handler hangs goes to another member.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import psycopg

from pgmem._sync.core.database import log
from pgmem.core.concurrency import (
    Lock,
    StopSignals,
    Wakeup,
    Worker,
    passthrough,
    sleep,
)
from pgmem.core.validation import Seconds, check_count
from pgmem.errors import InvalidInput, LeaseLost, OutcomeUnknown, PgmemError, Unavailable
from pgmem.groups.models import RunResult

if TYPE_CHECKING:
    from pgmem._sync.groups.claims import GroupContext
    from pgmem._sync.groups.group import Delivery, Group

    Batch = list[Delivery[Any]]

Once = Literal["transaction", "claim"]
Handler = Callable[..., Any]

MAX_CONCURRENCY = 1_000
IDLE_READ = 30.0
"""Seconds that one read waits. `stop` ends it."""
RETRY_FIRST, RETRY_LAST = 0.1, 5.0
"""Seconds between two attempts to reach the server."""
BACKOFF_FIRST, BACKOFF_LAST = 1.0, 300.0
"""Seconds until a failed event is delivered again: at most `BACKOFF_FIRST` after the first failure,
doubled with each, with random jitter."""


def backoff(attempts: int) -> float:
    """Return the seconds until an event that failed is delivered again."""
    most = min(BACKOFF_LAST, BACKOFF_FIRST * 2 ** min(attempts - 1, 30))
    return random.uniform(most / 2, most)  # noqa: S311  # no secret


def member_name() -> str:
    """Return the default name of a member: host name and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Members:
    """The members of a group in this process, for one `run`.

    Args:
        group: the group.
        context: makes transactions and runs handlers once.
        read: claims a batch.
        handler: called with each delivery; with once="transaction" also with the transaction.
        member: the members' name. A number is added if there are several.
        concurrency: the number of members.
        limit: the most events in a batch.
        lease: the lease of a batch.
        once: how effects are kept from happening twice.
        wake: ends the waits of members of this group.
    """

    def __init__(
        self,
        group: Group[Any],
        context: GroupContext,
        read: Callable[..., Batch],
        handler: Handler,
        *,
        member: str | None,
        concurrency: int,
        limit: int,
        lease: Seconds,
        once: Once | None,
        wake: Callable[[], None],
    ) -> None:
        if once not in (None, "transaction", "claim"):
            raise InvalidInput(f"once is 'transaction', 'claim' or None, got {once!r}")
        if not callable(handler):
            raise InvalidInput(f"handler is a function, got {type(handler).__name__}")
        check_count(concurrency, "concurrency", minimum=1, maximum=MAX_CONCURRENCY)
        self._group = group
        self._context = context
        self._read = read
        self._wake = wake
        self._handler = handler
        self._name = member or member_name()
        self._concurrency = concurrency
        self._limit = limit
        self._lease = lease
        self._once = once
        self.stopping = False
        self._lock = Lock()
        self._ended = Wakeup()
        self._failure: BaseException | None = None
        self._handled = self._failed = self._lost = 0

    def stop(self) -> None:
        """End after the running handlers. May be called from any thread, task or signal handler."""
        self.stopping = True
        self._wake()

    def run(self) -> RunResult:
        """Run until told to stop."""
        with StopSignals(self.stop):
            if self._concurrency == 1:
                # In the caller's thread: a handler may use objects that are bound to it.
                self._member(self._name)
            else:
                self._together()
        if self._failure is not None:
            raise self._failure
        return RunResult(self._handled, self._failed, self._lost)

    def _together(self) -> None:
        def member(number: int) -> Worker:
            name = f"{self._name} #{number}"
            return Worker(lambda: self._member(name), f"pgmem-member-{number}")

        workers = [member(number) for number in range(1, self._concurrency + 1)]
        try:
            while any(worker.alive for worker in workers):
                self._ended.wait(1.0)
        except BaseException:
            self.stop()
            for worker in workers:
                worker.join(0.0)
            raise

    def _member(self, name: str) -> None:
        """Run one member. Its failure stops the others."""
        try:
            self._loop(name)
        except Exception as error:
            with self._lock:
                self._failure = self._failure or error
            self.stop()
        finally:
            self._ended.set()

    def _loop(self, name: str) -> None:
        done: list[Delivery[Any]] = []
        failures = 0
        while not self.stopping:
            try:
                batch = self._read(
                    name,
                    self._limit,
                    self._lease,
                    done,
                    timeout=IDLE_READ,
                    stopping=lambda: self.stopping,
                )
            except LeaseLost:
                self._ack_singly(done)
                done = []
                continue
            except (Unavailable, OutcomeUnknown, psycopg.OperationalError, OSError) as error:
                failures += 1
                pause = min(RETRY_LAST, RETRY_FIRST * 2 ** min(failures, 10))
                log.warning("a member of %r cannot read and tries again: %s", self._group, error)
                sleep(random.uniform(pause / 2, pause))  # noqa: S311  # no secret
                continue
            failures = 0
            self._count_up(handled=len(done))
            done = self._handle_all(batch)
        if done:
            self._ack_singly(done)

    def _handle_all(self, batch: list[Delivery[Any]]) -> list[Delivery[Any]]:
        """Handle a batch. Return the deliveries that are done and not acknowledged yet."""
        done: list[Delivery[Any]] = []
        held_back: set[str] = set()
        for place, delivery in enumerate(batch):
            if self.stopping:
                self._give_back(batch[place:], held_back)
                break
            if delivery.key is not None and delivery.key in held_back:
                continue  # It went back with an earlier event of its key.
            try:
                self._handle(delivery)
            except LeaseLost as error:
                self._count_lost(delivery, error)
            except Exception as error:
                self._fail(delivery, error)
                if delivery.key is not None:
                    held_back.add(delivery.key)
            except BaseException:
                # Cancelled. This one was begun.
                self._give_back(batch[place + 1 :], held_back)
                raise
            else:
                if self._once == "transaction":
                    self._count_up(handled=1)
                else:
                    done.append(delivery)
        return done

    def _handle(self, delivery: Delivery[Any]) -> None:
        with self._context.codec.context.use(cause=delivery.event.position):
            self._call(delivery)

    def _call(self, delivery: Delivery[Any]) -> None:
        if self._once is None:
            passthrough(self._handler(delivery))
        elif self._once == "transaction":
            with self._context.transaction() as tx:
                passthrough(self._handler(delivery, tx))
                delivery.ack(tx)
        else:
            self._context.dedupe.run_once(
                f"group:{self._group.name}:{delivery.event.position}"[:500],
                lambda: self._handler(delivery),
                lease=self._lease,
            )

    def _fail(self, delivery: Delivery[Any], error: Exception) -> None:
        cause = error.__cause__ if self._once == "claim" and error.__cause__ else error
        self._count_up(failed=1)
        # The error's text may hold private data. It goes to the database, not to the log.
        log.warning(
            "the handler of the group %r failed at position %d (attempt %d): %s",
            self._group.name,
            delivery.event.position,
            delivery.attempts,
            type(cause).__name__,
        )
        text = f"{type(cause).__name__}: {cause}"
        self._try_nack([delivery], delay=backoff(delivery.attempts), error=text)

    def _give_back(self, rest: list[Delivery[Any]], held_back: set[str]) -> None:
        """Give back deliveries that were not begun."""
        rest = [delivery for delivery in rest if delivery.key not in held_back]
        self._try_nack(rest, counted=False)

    def _try_nack(self, deliveries: list[Delivery[Any]], **options: Any) -> None:
        try:
            self._group.nack(deliveries, **options)
        except LeaseLost as error:
            self._count_lost(deliveries[0], error)
        except (PgmemError, psycopg.Error, OSError) as error:
            # Then the lease expires.
            log.warning("events of %r could not be given back: %s", self._group, error)

    def _ack_singly(self, done: list[Delivery[Any]]) -> None:
        """Acknowledge deliveries one by one, because some may be lost."""
        for delivery in done:
            try:
                delivery.ack()
            except LeaseLost as error:
                self._count_lost(delivery, error)
            except (PgmemError, psycopg.Error, OSError) as error:
                log.warning("an event of %r could not be acknowledged: %s", self._group, error)
            else:
                self._count_up(handled=1)

    def _count_lost(self, delivery: Delivery[Any], error: LeaseLost) -> None:
        self._count_up(lost=1)
        log.warning(
            "position %d of the group %r was handled, and its lease is lost: %s",
            delivery.event.position,
            self._group.name,
            error,
        )

    def _count_up(self, handled: int = 0, failed: int = 0, lost: int = 0) -> None:
        with self._lock:
            self._handled += handled
            self._failed += failed
            self._lost += lost
