# Generated from pgmem/groups/member.py by tools/generate_sync.py. Do not edit.
"""One member of `group.run`: claim events, call the handler for one after another.

::

    waiting ──► current ──► done ──► acknowledged, with the next claim or by the supervisor
       │           ├ handler raises ─────► given back with a growing delay; in the end a dead letter
       │           ├ a conflict ─────────► called again after a pause, which is no attempt
       │           ├ RetryLater, Discard ► given back without an attempt; a dead letter
       │           └ lost ───────────────► another member handles it: logged and counted
       └ the current one takes long, or the run stops ──► given back, without an attempt

A member claims one event if handlers are slow, and several if they take milliseconds, because a
claim costs about one. So slow handlers leave nothing waiting behind them.
"""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING, Any

import psycopg

from pgmem._sync.core.database import log
from pgmem._sync.groups.handling import Handling
from pgmem.core.concurrency import Lock, Wakeup
from pgmem.errors import LeaseLost, OutcomeUnknown, PgmemError
from pgmem.groups.conflicts import is_conflict
from pgmem.groups.isolation import PROCESS

if TYPE_CHECKING:
    from pgmem._sync.groups.delivery import Delivery
    from pgmem._sync.groups.worker import GroupRun

    AnyDelivery = Delivery[Any]

IDLE_READ = 30.0
"""Seconds that one read waits. `stop` ends it."""
RETRY_FIRST, RETRY_LAST = 0.1, 5.0
"""Seconds between two attempts to reach the server."""
BATCH_SECONDS = 0.05
"""Seconds of work that a member claims together."""


class Member:
    """One member of a group, which handles one event at a time.

    The member and the supervisor share `waiting` and `done` under `lock`, because in threads they
    run at the same time.

    Attributes:
        name: its name.
        lock: held while the attributes below are read together or changed.
        waiting: claimed and not begun.
        current: its handler runs.
        done: handled and not acknowledged.
        batch: the id and the token of the batch row that holds them.
        begun_at: when the handler of `current` began.
        done_at: when the first of `done` ended.
        renewed_at: when the lease was last renewed.
        wakeup: ends its pauses.
    """

    def __init__(self, run: GroupRun, name: str) -> None:
        self._run = run
        self._clock = run.context.clock
        self._handling = Handling(run, self)
        self._size = 1
        self.name = name
        self.wakeup = Wakeup()
        self.lock = Lock()
        self.waiting: deque[AnyDelivery] = deque()
        self.current: AnyDelivery | None = None
        self.done: list[AnyDelivery] = []
        self.batch: tuple[int, int] | None = None
        self.begun_at = self.done_at = self.renewed_at = 0.0

    def run(self) -> None:
        """Claim and handle events until the run stops."""
        try:
            while not self._run.stopping:
                self._claim()
                if self.waiting:
                    self._handle_all()
        except BaseException:
            # Cancelled, or the group is gone. What was not begun is no attempt.
            self.give_back(self.take_waiting())
            raise
        finally:
            if done := self.take_done():
                self.acknowledge(done)

    def _claim(self) -> None:
        """Claim events, and acknowledge what is done with it. Wait for them, or for the end."""
        failures = 0
        while not self._run.stopping:
            done = self.take_done()
            asked = self._clock.now()
            try:
                batch = self._run.read(
                    self.name,
                    self._size,
                    self._run.options.lease,
                    done,
                    timeout=IDLE_READ,
                    stopping=lambda: self._run.stopping,
                    alone=PROCESS.single,
                )
            except LeaseLost:
                self.acknowledge(done)
                continue
            except (OutcomeUnknown, PgmemError, psycopg.Error, OSError) as error:
                self._put_back(done)
                if not (is_conflict(error) or isinstance(error, OutcomeUnknown | OSError)):
                    raise
                failures += 1
                if failures == 1:
                    log.warning(
                        "a member of %r cannot read and tries again: %s", self._run.group, error
                    )
                self._pause(failures)
                continue
            if failures:
                log.info("a member of %r reads again", self._run.group)
                failures = 0
            self._run.count(handled=len(done))
            if batch:
                with self.lock:
                    self.waiting.extend(batch)
                    self.batch = (batch[0]._batch, batch[0].token)
                    self.renewed_at = asked
                return

    def _pause(self, failures: int) -> None:
        longest = min(RETRY_LAST, RETRY_FIRST * 2 ** min(failures, 10))
        seconds = random.uniform(longest / 2, longest)  # noqa: S311  # no secret
        self._clock.wait(self.wakeup, seconds)

    def _handle_all(self) -> None:
        """Handle what was claimed, unless the supervisor gives it back or the run stops."""
        slowest, count = 0.0, len(self.waiting)
        while (delivery := self._next()) is not None:
            try:
                if self._handling.handle(delivery):
                    with self.lock:
                        self.done_at = self.done_at if self.done else self._clock.now()
                        self.done.append(delivery)
            finally:
                slowest = max(slowest, self._clock.now() - self.begun_at)
                with self.lock:
                    self.current = None
        self._size = batch_size(count, slowest, self._run.options.limit)

    def _next(self) -> AnyDelivery | None:
        """Begin the next event. None if there is none, or the run stops."""
        with self.lock:
            if not self.waiting or self._run.stopping:
                return None
            self.current = self.waiting.popleft()
            self.begun_at = self._clock.now()
            due = self.done or self.waiting
        self._run.supervisor.look(soon=bool(due))
        return self.current

    def begin(self) -> None:
        """Note that the handler of the current event begins now, after it waited to run alone."""
        with self.lock:
            self.begun_at = self._clock.now()

    def take_done(self) -> list[AnyDelivery]:
        """Take what is handled, to acknowledge it."""
        with self.lock:
            done, self.done = self.done, []
        return done

    def _put_back(self, done: list[AnyDelivery]) -> None:
        with self.lock:
            self.done = done + self.done
            self.done_at = self._clock.now()

    def take_waiting(self, key: str | None = None) -> list[AnyDelivery]:
        """Take what was not begun, of one ordering key or (None) all."""
        with self.lock:
            taken = [one for one in self.waiting if key is None or one.key == key]
            self.waiting = deque(one for one in self.waiting if one not in taken)
        return taken

    def give_back(self, deliveries: list[AnyDelivery]) -> None:
        """Give back what was not begun. It is no attempt, and due at once."""
        if not deliveries:
            return
        try:
            self._run.group.nack(deliveries, counted=False)
        except LeaseLost as error:
            log.debug("events of %r went back before: %s", self._run.group, error)
        except (PgmemError, psycopg.Error, OSError) as error:
            # Then their lease expires.
            log.warning("events of %r could not be given back: %s", self._run.group, error)

    def acknowledge(self, done: list[AnyDelivery]) -> None:
        """Acknowledge deliveries; one by one if some are lost."""
        try:
            self._run.group.ack(done)
        except LeaseLost as error:
            if len(done) == 1:
                self.count_lost(done[0], error)
            else:
                for delivery in done:
                    self.acknowledge([delivery])
        except (PgmemError, psycopg.Error, OSError) as error:
            if not self._run.stopping:
                self._put_back(done)  # With the next claim.
            log.warning("events of %r could not be acknowledged: %s", self._run.group, error)
        else:
            self._run.count(handled=len(done))

    def count_lost(self, delivery: AnyDelivery, error: Exception) -> None:
        """Count and log an event that another member has."""
        self._run.count(lost=1)
        log.warning(
            "position %d of the group %r was handled, and its lease is lost: %s",
            delivery.event.position,
            self._run.group.name,
            error,
        )


def batch_size(count: int, slowest: float, limit: int) -> int:
    """Return the number of events to claim next.

    Args:
        count: the events of the last claim.
        slowest: the seconds that the slowest of them took.
        limit: the most events.
    """
    fit = limit if slowest <= 0 else int(BATCH_SECONDS / slowest)
    return max(1, min(limit, 2 * count, fit))
