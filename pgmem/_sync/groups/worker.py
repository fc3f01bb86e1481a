# Generated from pgmem/groups/worker.py by tools/generate_sync.py. Do not edit.
"""The loop that an agent process lives in: read, call, acknowledge, until it is told to stop.

::

    running ──── SIGTERM, SIGINT, group.stop() ────► stopping ──► ended
       │                                                │
       │ each member: read a batch ─► handler, one      │ no more batches; the handler under way
       │   after the other ─► acknowledge with the      │ ends; what was not begun goes back,
       │   next read                                    │ uncounted; what is done is acknowledged
       │
       ├ handler raises ───────► given back, with a delay that grows; a dead letter in the end
       ├ LeaseLost at the end ─► told (log, `lost`): somebody else has it and does it again
       ├ server away ──────────► tried again, for ever
       └ the group is gone, trimmed, another history … ──► every member stops, run raises it

A member extends no lease behind a handler's back: a handler that hangs must lose its event.
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
from pgmem.errors import InvalidOption, LeaseLost, OutcomeUnknown, PgmemError, Unavailable
from pgmem.groups.models import Ran

if TYPE_CHECKING:
    from pgmem._sync.groups.group import Delivery, Group

Once = Literal["transaction", "claim"]
Handler = Callable[..., Any]

MAX_CONCURRENCY = 1_000
IDLE_READ = 30.0
"""Seconds that one read waits; being told to stop ends it."""
RETRY_FIRST, RETRY_LAST = 0.1, 5.0
"""Seconds between two tries to reach the server."""
BACKOFF_FIRST, BACKOFF_LAST = 1.0, 300.0
"""Seconds until an event is handed out again: at most so many after its first failure, doubling
with each, and chosen at random up to that (full jitter)."""


def backoff(attempts: int) -> float:
    """Seconds until an event that failed is handed out again."""
    most = min(BACKOFF_LAST, BACKOFF_FIRST * 2 ** min(attempts - 1, 30))
    return random.uniform(most / 2, most)  # noqa: S311  # no secret


def member_name() -> str:
    """Who reads, where nobody said so: host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Members:
    """The members of a group in this process, for one `run`.

    Args:
        group: whose members they are.
        handler: is called with each delivery (and, with once="transaction", the transaction).
        consumer: their name; a number is added to it where there are several.
        concurrency: how many there are.
        count: events of a batch.
        lease: how long a batch may take.
        once: how effects are kept from happening twice.
    """

    def __init__(
        self,
        group: Group,
        handler: Handler,
        *,
        consumer: str | None,
        concurrency: int,
        count: int,
        lease: Seconds,
        once: Once | None,
    ) -> None:
        if once not in (None, "transaction", "claim"):
            raise InvalidOption(f"once is 'transaction', 'claim' or None, got {once!r}")
        if not callable(handler):
            raise InvalidOption(f"handler is a function, got {type(handler).__name__}")
        check_count(concurrency, "concurrency", minimum=1, maximum=MAX_CONCURRENCY)
        self._group = group
        self._handler = handler
        self._consumer = consumer or member_name()
        self._concurrency = concurrency
        self._count = count
        self._lease = lease
        self._once = once
        self.stopping = False
        self._lock = Lock()
        self._ended = Wakeup()
        self._failure: BaseException | None = None
        self._handled = self._failed = self._lost = 0

    def stop(self) -> None:
        """Let what is under way end, and then end; from any thread, task or signal handler."""
        self.stopping = True
        self._group.wake()

    def run(self) -> Ran:
        """Live until told to stop; tells what was done."""
        with StopSignals(self.stop):
            if self._concurrency == 1:
                # In the caller's own thread: a handler may keep what is bound to it.
                self._member(self._consumer)
            else:
                self._together()
        if self._failure is not None:
            raise self._failure
        return Ran(self._handled, self._failed, self._lost)

    def _together(self) -> None:
        def member(number: int) -> Worker:
            name = f"{self._consumer} #{number}"
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

    def _member(self, consumer: str) -> None:
        """Be one member."""
        try:
            self._live(consumer)
        except Exception as error:
            with self._lock:
                self._failure = self._failure or error
            self.stop()
        finally:
            self._ended.set()

    def _live(self, consumer: str) -> None:
        done: list[Delivery] = []
        failures = 0
        while not self.stopping:
            try:
                batch = self._group.take(
                    consumer,
                    self._count,
                    self._lease,
                    done,
                    timeout=IDLE_READ,
                    stopping=lambda: self.stopping,
                )
            except LeaseLost:
                self._acknowledge_singly(done)
                done = []
                continue
            except (Unavailable, OutcomeUnknown, psycopg.OperationalError, OSError) as error:
                failures += 1
                pause = min(RETRY_LAST, RETRY_FIRST * 2 ** min(failures, 10))
                log.warning("a member of %r cannot read, and tries again: %s", self._group, error)
                sleep(random.uniform(pause / 2, pause))  # noqa: S311  # no secret
                continue
            failures = 0
            self._count_up(handled=len(done))
            done = self._handle_all(batch)
        if done:
            self._acknowledge_singly(done)

    def _handle_all(self, batch: list[Delivery]) -> list[Delivery]:
        """Handle a batch; gives what is done and not acknowledged yet."""
        done: list[Delivery] = []
        held_back: set[str] = set()
        for place, delivery in enumerate(batch):
            if self.stopping:
                self._give_back(batch[place:], held_back)
                break
            if delivery.key is not None and delivery.key in held_back:
                continue  # It went back with an earlier one of its key.
            try:
                self._handle(delivery)
            except LeaseLost as error:
                self._tell_lost(delivery, error)
            except Exception as error:
                self._fail(delivery, error)
                if delivery.key is not None:
                    held_back.add(delivery.key)
            except BaseException:
                # Cancelled: this one was begun.
                self._give_back(batch[place + 1 :], held_back)
                raise
            else:
                if self._once == "transaction":
                    self._count_up(handled=1)
                else:
                    done.append(delivery)
        return done

    def _handle(self, delivery: Delivery) -> None:
        context = self._group.context
        if self._once is None:
            passthrough(self._handler(delivery))
        elif self._once == "transaction":
            with context.transaction() as tx:
                passthrough(self._handler(delivery, tx))
                delivery.ack(tx)
        else:
            context.dedupe.run_once(
                f"group:{self._group.name}:{delivery.event.position}"[:500],
                lambda: self._handler(delivery),
                lease=self._lease,
            )

    def _fail(self, delivery: Delivery, error: Exception) -> None:
        cause = error.__cause__ if self._once == "claim" and error.__cause__ else error
        self._count_up(failed=1)
        # Its text may hold what is nobody's business: it goes to the database, not to the log.
        log.warning(
            "the handler of the group %r failed at position %d (attempt %d): %s",
            self._group.name,
            delivery.event.position,
            delivery.attempts,
            type(cause).__name__,
        )
        text = f"{type(cause).__name__}: {cause}"
        self._try_nack([delivery], delay=backoff(delivery.attempts), error=text)

    def _give_back(self, rest: list[Delivery], held_back: set[str]) -> None:
        """Give back what was not begun."""
        rest = [delivery for delivery in rest if delivery.key not in held_back]
        self._try_nack(rest, counted=False)

    def _try_nack(self, deliveries: list[Delivery], **options: Any) -> None:
        try:
            self._group.nack(deliveries, **options)
        except LeaseLost as error:
            self._tell_lost(deliveries[0], error)
        except (PgmemError, psycopg.Error, OSError) as error:
            # Then the lease runs out by itself.
            log.warning("events of %r could not be given back: %s", self._group, error)

    def _acknowledge_singly(self, done: list[Delivery]) -> None:
        """Acknowledge those that are still ours, where one of them is not."""
        for delivery in done:
            try:
                delivery.ack()
            except LeaseLost as error:
                self._tell_lost(delivery, error)
            except (PgmemError, psycopg.Error, OSError) as error:
                log.warning("an event of %r could not be acknowledged: %s", self._group, error)
            else:
                self._count_up(handled=1)

    def _tell_lost(self, delivery: Delivery, error: LeaseLost) -> None:
        self._count_up(lost=1)
        log.warning(
            "position %d of the group %r was handled, and is not ours any more: %s",
            delivery.event.position,
            self._group.name,
            error,
        )

    def _count_up(self, handled: int = 0, failed: int = 0, lost: int = 0) -> None:
        with self._lock:
            self._handled += handled
            self._failed += failed
            self._lost += lost
