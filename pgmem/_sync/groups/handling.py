# Generated from pgmem/groups/handling.py by tools/generate_sync.py. Do not edit.
"""Call the handler for one event, and do what its end asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from pgmem._sync.core.database import log
from pgmem.core.concurrency import INTERRUPTS
from pgmem.errors import LeaseLost, OutcomeUnknown, PgmemError
from pgmem.groups import run_ops
from pgmem.groups.conflicts import causes, is_conflict, pause
from pgmem.groups.delivery_ops import HeldDelivery
from pgmem.groups.isolation import ISOLATED_AFTER, PROCESS
from pgmem.groups.retry import Discard, RetryLater

if TYPE_CHECKING:
    from pgmem._sync.groups.delivery import Delivery
    from pgmem._sync.groups.member import Member
    from pgmem._sync.groups.worker import GroupRun

    AnyDelivery = Delivery[Any]

OVERLONG = "overlong"
"""How the supervisor marks a delivery that it gave back because its handler took too long."""


class Handling:
    """Handles the events of one member.

    Args:
        run: the run.
        member: its member.
    """

    def __init__(self, run: GroupRun, member: Member) -> None:
        self._run = run
        self._member = member

    def handle(self, delivery: AnyDelivery) -> bool:
        """Handle an event. Return True if it is to be acknowledged."""
        alone = delivery._losses >= ISOLATED_AFTER and not PROCESS.single
        if not self._begin(delivery, alone=alone):
            self._member.give_back([delivery])
            return False
        try:
            return self._until_settled(delivery)
        finally:
            PROCESS.end()

    def _begin(self, delivery: AnyDelivery, *, alone: bool) -> bool:
        """Wait until the handler may begin. Return False if the run stops meanwhile."""
        if not PROCESS.begin(alone=alone):
            PROCESS.wait(self, self._member.wakeup.set, alone=alone)
            try:
                while not PROCESS.begin(alone=alone):
                    if self._run.stopping:
                        return False
                    self._run.context.clock.wait(self._member.wakeup, None)
            finally:
                PROCESS.leave(self, alone=alone)
            self._member.begin()
        if alone:
            try:
                op = run_ops.isolate(self._run.group.options, _held(delivery))
                self._run.context.reader.executor.execute(op)
            except BaseException:
                PROCESS.end()
                raise
        return True

    def _until_settled(self, delivery: AnyDelivery) -> bool:
        """Call the handler, again after conflicts in the database."""
        conflicts = 0
        while True:
            try:
                self._call(delivery)
            except Exception as error:
                if self._was_acknowledged(delivery, error):
                    return False
                most = self._run.group.retry.conflicts
                conflict = _answer(error) is None and self._is_conflict(error)
                if not conflict or conflicts >= most:
                    self._fail(delivery, error, conflicts if conflict else 0)
                    return False
                conflicts += 1
                log.info(
                    "the handler of the group %r is called again for position %d after a conflict "
                    "in the database (%d of at most %d): %s",
                    self._run.group.name,
                    delivery.event.position,
                    conflicts,
                    most,
                    error,
                )
                self._run.context.clock.wait(self._member.wakeup, pause(conflicts))
                if self._run.stopping:
                    self._member.give_back([delivery])
                    return False
            except BaseException as error:
                self._interrupted(delivery, error)
                raise
            else:
                return self._returned(delivery)

    def _call(self, delivery: AnyDelivery) -> None:
        run, once = self._run, self._run.options.once
        call, handler = run.caller.call, run.options.handler
        delivery._settled = delivery._bound = None
        with run.context.codec.context.use(cause=delivery.event.position):
            if once is None:
                call(handler, delivery)
            elif once == "transaction":
                with run.context.transaction() as tx:
                    call(handler, delivery, tx)
                    if delivery._settled is None:
                        delivery.ack(tx)
            else:
                run.context.dedupe.run_once(
                    run_ops.work_key(run.group.name, delivery.event.position),
                    lambda: self._without_result(delivery),
                    lease=run.options.lease,
                )

    def _without_result(self, delivery: AnyDelivery) -> None:
        # What a handler returns is not stored, so it may be anything.
        self._run.caller.call(self._run.options.handler, delivery)

    def _is_conflict(self, error: Exception) -> bool:
        # The transaction acknowledges. If it was committed after all, the next one is refused.
        unknown = self._run.options.once == "transaction" and isinstance(error, OutcomeUnknown)
        return unknown or is_conflict(error)

    def _returned(self, delivery: AnyDelivery) -> bool:
        """End an event whose handler returned. Return True if its event is to be acknowledged."""
        if delivery._settled is None:
            return True
        if delivery._settled == OVERLONG:
            self._member.count_lost(delivery, LeaseLost("the handler took longer than max_runtime"))
        elif delivery._settled == "ack":
            bound = delivery._bound
            if bound is None or bound.committed or not self._still_held(delivery):
                self._run.count(handled=1)
            else:
                error = PgmemError("the transaction that acknowledges the event was not committed")
                self._fail(delivery, error, 0)
        return False

    def _was_acknowledged(self, delivery: AnyDelivery, error: Exception) -> bool:
        """Return True if the handler raised after its acknowledgement was committed."""
        if delivery._settled != "ack":
            return False
        bound = delivery._bound
        unsure = bound is not None and not bound.committed
        if unsure and (not isinstance(error, OutcomeUnknown) or self._still_held(delivery)):
            return False
        self._run.count(handled=1)
        if not unsure:
            log.warning(
                "the handler of the group %r raised after it had acknowledged position %d",
                self._run.group.name,
                delivery.event.position,
                exc_info=error,
            )
        return True

    def _still_held(self, delivery: AnyDelivery) -> bool:
        run, (position, batch, token) = self._run, _held(delivery)
        op = run_ops.renew(run.group.options, [(batch, token)], lease=run.options.lease)
        found = (run.context.reader.executor.execute(op)).get(batch)
        return found is not None and position in found.positions

    def _fail(self, delivery: AnyDelivery, error: Exception, conflicts: int) -> None:
        """Give back an event whose handler raised, or make it a dead letter."""
        if delivery._settled == OVERLONG:
            self._member.count_lost(delivery, error)
            return
        answer = _answer(error)
        if delivery.key is not None and not isinstance(answer, Discard):
            self._member.take_waiting(delivery.key)  # They go back with it.
        cause = error
        if self._run.options.once == "claim" and isinstance(error.__cause__, Exception):
            cause = error.__cause__
        text = f"{type(cause).__name__}: {cause}"
        if conflicts:
            text += f" (after {conflicts} more calls because of conflicts in the database)"
        group = self._run.group
        try:
            if delivery._settled is not None and delivery._settled != "ack":
                pass  # The handler gave it back, and raised.
            elif isinstance(answer, Discard):
                group.dead_letter([delivery], error=f"Discard: {answer}")
            elif isinstance(answer, RetryLater):
                group.nack([delivery], delay=answer.delay, error=str(answer), counted=False)
                return
            else:
                delay = group.retry.delay(delivery.attempts)
                group.nack([delivery], delay=delay, error=text)
        except LeaseLost as lost:
            self._member.count_lost(delivery, lost)
            return
        except (PgmemError, psycopg.Error, OSError) as failure:
            # Then its lease expires.
            log.warning("position %d could not be given back: %s", delivery.event.position, failure)
        self._run.count(failed=1)
        if answer is None:
            log.warning(
                "the handler of the group %r failed at position %d (attempt %d): %s",
                group.name,
                delivery.event.position,
                delivery.attempts,
                text,
                exc_info=error,
            )

    def _interrupted(self, delivery: AnyDelivery, error: BaseException) -> None:
        """Give back an event whose handler was cancelled, or ended the process."""
        counted = not isinstance(error, INTERRUPTS)
        text = f"interrupted: {type(error).__name__}"
        try:
            self._run.group.nack([delivery], error=text, counted=counted)
        except (PgmemError, psycopg.Error, OSError) as failure:
            log.warning("position %d could not be given back: %s", delivery.event.position, failure)


def _answer(error: BaseException) -> Discard | RetryLater | None:
    """Return what the handler asked for by raising."""
    for cause in causes(error):
        if isinstance(cause, Discard | RetryLater):
            return cause
    return None


def _held(delivery: AnyDelivery) -> HeldDelivery:
    return HeldDelivery(delivery.event.position, delivery._batch, delivery.token)
