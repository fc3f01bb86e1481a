# Generated from pgmem/groups/claims.py by tools/generate_sync.py. Do not edit.
"""Claim events of a group for the members of this process, and wait until a claim can succeed.

`pgmem.groups.claim_ops` makes the statements. They hand out only events up to the stable position.

::

    take ──► something there? ── no ──► wait: for an event of the selection, the end of a lease
      ▲           │ yes                 or delay, a notification "group:<name>", the safety poll
      │           ▼                                    │
      │       claim ──► expired? take back. due? claim  │
      └────────────────────────────────────────────────┘

Of several members in one process one claims at a time, and those behind it know what it found. So
an event that wakes all of them costs one claim.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from pgmem._sync.core.notifications import TargetedNotifications
from pgmem._sync.dedupe.verbs import Dedupe
from pgmem._sync.events.buffer import Cursor
from pgmem._sync.events.reader import LogReader
from pgmem._sync.groups.batches import BatchRow, BatchRows
from pgmem._sync.groups.clock import Clock
from pgmem.core.concurrency import Lock
from pgmem.core.history import History
from pgmem.core.op import Op
from pgmem.errors import OutcomeUnknown
from pgmem.events.codec import Codec
from pgmem.events.poll_schedule import IDLE_POLLS
from pgmem.groups import claim_ops as ops
from pgmem.groups import ops as groups
from pgmem.groups.delivery_ops import HeldDelivery, ack
from pgmem.groups.prefetch_ops import PREFETCH_SECONDS, release_prefetched

LOCKED_PAUSE = 0.05
"""Seconds until a member claims again what another member's transaction has locked."""
RETRY = 0.1
"""Seconds until a member claims again while the log cannot be followed."""
MOST_DOUBTFUL = 10_000


class GroupProgress:
    """The state of a group that its members in this process share.

    Attributes:
        lock: held by the member that claims.
        position: no selected event up to it is left to claim.
        due: when an event becomes available by itself, by the monotonic clock.
        told: the number of notifications received before the last claim.
        batch_rows: the members' batch rows.
        unanswered: by member, the numbers of its claims whose answer is lost. They may have claimed
            events, which its next claim takes back at once instead of at the end of their lease.
        doubtful: deliveries with an acknowledgement whose answer is lost.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self.batch_rows = BatchRows()
        self.unanswered: dict[str, list[int]] = {}
        self.doubtful: set[HeldDelivery] = set()
        self.forget()

    def doubt(self, held: Sequence[HeldDelivery]) -> None:
        """Note that an acknowledgement had no answer."""
        if len(self.doubtful) > MOST_DOUBTFUL:
            self.doubtful.clear()  # Their callers have given up.
        self.doubtful.update(held)

    def forget(self) -> None:
        """Forget what is known, so that the next call claims."""
        self.position = -1
        self.due = 0.0
        self.told = 0


@dataclass
class GroupContext:
    """The parts of a memory that all its groups use.

    Attributes:
        reader: knows the stable position and the newest events.
        codec: decodes payloads.
        notifications: wake members.
        safety_poll: seconds after which a member claims without a notification.
        transaction: begins a transaction.
        dedupe: for effects outside the database.
        progress: the shared state of each group, by name.
        clock: the clock of runs.
    """

    reader: LogReader
    codec: Codec
    notifications: TargetedNotifications
    safety_poll: float
    transaction: Callable[[], AbstractContextManager[Any]]
    dedupe: Dedupe
    progress: dict[str, GroupProgress] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)


class Claims:
    """Claim events of one group for the members in this process.

    Args:
        context: the parts of the memory that all groups use.
        group: the group.
        stamps: the group goes on by itself after a promotion.
    """

    def __init__(self, context: GroupContext, group: groups.Group, *, stamps: bool = True) -> None:
        self._context = context
        self._stamps = stamps
        self._reader = context.reader
        self.follow(group)
        self._known = context.progress.setdefault(group.name, GroupProgress())
        self._signal = f"group:{group.name}"

    def follow(self, group: groups.Group) -> None:
        """Use the options of a group, which `alter` may change."""
        self.group = group
        self._test = group.selection.test()

    def changed(self) -> None:
        """Note that a claim may find events that the last one did not."""
        self._known.forget()

    def due_in(self, seconds: float) -> None:
        """Note that an event becomes available within `seconds`."""
        self._known.due = min(self._known.due, time.monotonic() + seconds)

    def wake(self) -> None:
        """Wake the waiting members, so that they check whether to stop."""
        self._context.notifications.wake(self._signal)

    def take(
        self,
        request: ops.ClaimRequest,
        acknowledged: Sequence[HeldDelivery],
        *,
        timeout: float,
        stopping: Callable[[], bool],
    ) -> ops.ClaimResult:
        """Claim events, or wait for some for `timeout` seconds or until `stopping()` is true."""
        handed = self._take_again(request, acknowledged, sure=not timeout)
        if handed.events or not timeout:
            return handed
        deadline = time.monotonic() + timeout
        follower = Cursor(self._test, max(0, self._known.position))
        self._reader.buffer.enter(follower)
        self._context.notifications.register(self._signal, follower.wakeup)
        try:
            while not (handed.events or follower.stopped or stopping()):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                if follower.failed is not None:
                    raise follower.failed
                self._rest(follower, remaining)
                handed = self._take_again(request)
                follower.test = self._test  # `alter` may have changed it.
        finally:
            follower.stopped = True
            self._context.notifications.unregister(self._signal, follower.wakeup)
            self._reader.buffer.leave(follower)
        return handed

    def _take_again(
        self,
        request: ops.ClaimRequest,
        acknowledged: Sequence[HeldDelivery] = (),
        *,
        sure: bool = False,
    ) -> ops.ClaimResult:
        """Claim events, again if the answer was lost or the group was altered."""
        deadline = time.monotonic() + self._reader.executor.database.timeout
        anew = False
        while True:
            try:
                handed = self._take(
                    replace(
                        request,
                        group=self.group,
                        # Read before what is stable, which belongs to it or to a later one.
                        timeline=self._reader.executor.database.history.timeline,
                        stamps=self._stamps,
                    ),
                    acknowledged,
                    sure=sure,
                    anew=anew,
                )
            except OutcomeUnknown:
                if time.monotonic() > deadline:
                    raise
                anew = True
                continue
            if handed.promoted is not None:
                self._go_on(handed.promoted)
                continue
            if not handed.altered:
                return handed
            self.follow(self._reader.executor.execute(groups.get(self.group.name)))

    def _go_on(self, promoted: History) -> None:
        """Go on in a later timeline, if it holds what this process has read.

        Raises:
            HistoryRewritten: it does not. The next call goes on from the group's position.
        """
        self._known.forget()
        self._reader.follow_history(promoted)
        self._reader.executor.execute(ops.stamp(self.group))

    def _take(
        self,
        request: ops.ClaimRequest,
        acknowledged: Sequence[HeldDelivery],
        *,
        sure: bool,
        anew: bool,
    ) -> ops.ClaimResult:
        """Claim events if there may be some.

        Args:
            request: what the member asks for.
            acknowledged: deliveries to acknowledge.
            sure: ask the server in any case.
            anew: the server may have crashed. Ask what is stable: positions may be used again.
        """
        known = self._known
        asked = time.monotonic()
        if known.doubtful and not known.doubtful.isdisjoint(acknowledged):
            self.acknowledge(acknowledged)
            acknowledged = ()
        before = known.batch_rows.pop(acknowledged)
        if before is not None and before.in_time:
            # No member waits for another here, so it takes no lock.
            handed = self._claim(request, request.fetch(acknowledged), acknowledged)
            known.batch_rows.filled(request, asked, handed)
            if handed.events:
                return handed
            known.batch_rows.rest()
            known.forget()
            acknowledged = ()
        with known.lock:
            until = self._reader.wait_until_stable() if anew else self._final()
            told = self._context.notifications.received
            lost = request.member in known.unanswered
            nothing = until <= known.position and asked < known.due and told == known.told
            if nothing and not sure and not lost:
                if acknowledged:
                    self.acknowledge(acknowledged, before)
                return ops.nothing(known.position)
            handed = self._take_now(request, until, acknowledged, before, sure=sure)
            known.batch_rows.filled(request, asked, handed)
            if handed.events and not (self._reader.buffer.live and request.has_all(handed, until)):
                known.forget()
            else:
                known.position, known.told = max(until, handed.position), told
                known.due = time.monotonic() + self._pause_after(handed, request.lease)
            return handed

    def _take_now(
        self,
        request: ops.ClaimRequest,
        until: int,
        acknowledged: Sequence[HeldDelivery],
        before: BatchRow | None,
        *,
        sure: bool,
    ) -> ops.ClaimResult:
        """Claim. If there is nothing although there could be, claim up to the newest position."""
        reader, batch_rows = self._reader, self._known.batch_rows
        sessions = reader.executor.sessions
        empty = None if acknowledged else batch_rows.pop_free()
        ask = request.claim(
            until,
            acknowledged,
            prefetching=batch_rows.how_many(request.limit, before),
            empty=empty,
            crowded=batch_rows.crowded,
        )
        handed = self._ask(request, until, ask, acknowledged)
        if handed.events or handed.altered or handed.promoted is not None:
            return handed
        if empty is not None:
            batch_rows.push_free(empty)
        # The buffer may lack what this process has just written. Or the server crashed, and what
        # was stable may not be stable any more.
        unsure = (sure and reader.buffer.live) or sessions != reader.executor.sessions
        if unsure:
            until = reader.wait_until_stable()
        if unsure or not handed.looked:  # Else it only acknowledged.
            handed = self._ask(request, until, request.claim(until))
        return handed

    def _ask(
        self,
        request: ops.ClaimRequest,
        until: int,
        claim: Op[ops.ClaimResult],
        acknowledged: Sequence[HeldDelivery] = (),
    ) -> ops.ClaimResult:
        """Claim due events if a lease expired, else new ones, else what others prefetched."""
        execute = self._reader.executor.execute
        self._recover(request.member)
        handed = self._claim(request, claim, acknowledged)
        if handed.altered or handed.promoted is not None:
            return handed
        if handed.expired:
            execute(ops.expire(self.group))
        if not handed.events and handed.unfetched:
            execute(release_prefetched(self.group, request.member))
        if not handed.events and _something_first(handed):
            # Also if nothing was due: a new dead letter may have freed its key.
            handed = self._claim(request, request.claim_due())
            if not handed.events:
                # Another member was first, all became dead letters, or a transaction that takes
                # longer than the lease acknowledges them. That must not hold up new events.
                handed = self._claim(request, request.claim(until, passing=True))
        if not handed.events and handed.prefetched:
            last = self._known.batch_rows.last(request.member)
            if execute(release_prefetched(self.group, request.member, last)):
                handed = self._claim(request, request.claim_due())
        return handed

    def _claim(
        self,
        request: ops.ClaimRequest,
        claim: Op[ops.ClaimResult],
        acknowledged: Sequence[HeldDelivery] = (),
    ) -> ops.ClaimResult:
        """Execute a claim. Remember it if its answer is lost.

        Raises:
            OutcomeUnknown: the answer is lost. The member's next claim finds what this one claimed.
        """
        try:
            return self._reader.executor.execute(claim)
        except BaseException as error:
            if isinstance(error, OutcomeUnknown) or not isinstance(error, Exception):
                known = self._known
                known.unanswered.setdefault(request.member, []).append(claim.params["claim"])
                known.doubt(acknowledged)
            raise

    def _recover(self, member: str) -> None:
        """Take back what a member's claims without an answer have claimed."""
        lost = self._known.unanswered.get(member)
        if lost:
            self._reader.executor.execute(ops.expire(self.group, lost))
            del self._known.unanswered[member]

    def acknowledge(self, held: Sequence[HeldDelivery], before: BatchRow | None = None) -> None:
        """Acknowledge deliveries. If an earlier acknowledgement had no answer, find its outcome."""
        known = self._known
        again = not known.doubtful.isdisjoint(held)
        try:
            self._reader.executor.execute(ack(self.group, held, again=again))
        except BaseException as error:
            if isinstance(error, OutcomeUnknown) or not isinstance(error, Exception):
                known.doubt(held)
            raise
        known.doubtful.difference_update(held)
        known.batch_rows.acknowledged(held, before)

    def _pause_after(self, handed: ops.ClaimResult, lease: float) -> float:
        """Return the seconds until the next claim without a notification."""
        wait = lease if handed.wait is None else min(lease, handed.wait)
        if _something_first(handed):
            wait = max(wait, LOCKED_PAUSE)
        if handed.prefetched or handed.overtaken:
            wait = min(wait, PREFETCH_SECONDS)  # Its member comes soon, or leaves it.
        longest = self._context.safety_poll
        if self._context.notifications.arrive:
            longest *= IDLE_POLLS  # As rarely as the follower polls.
        return min(longest, wait)

    def settled(self) -> int:
        """Ask for the stable position now. The buffer may be a moment behind."""
        return self._reader.wait_until_stable()

    def _final(self) -> int:
        """Return a known stable position. It may be a moment old, which is enough to claim."""
        feed = self._reader.buffer
        if feed.live:
            return feed.end
        self._reader.start()
        return self._reader.wait_until_stable()

    def _rest(self, follower: Cursor, remaining: float) -> None:
        """Wait until the next claim is due."""
        known, feed = self._known, self._reader.buffer
        pause = min(remaining, known.due - time.monotonic())
        if pause <= 0.0 or known.position < 0:
            return
        follower.position = max(follower.position, known.position)
        follower.place = -1
        if feed.take(follower, 1):
            return
        if not feed.live:
            self._reader.start()
            pause = min(pause, RETRY)
        told = self._context.notifications.received
        woken = self._reader.wait(follower, pause)
        # The wake-up may also say that this member is to read the connection now.
        changed = told != self._context.notifications.received
        if woken and changed and feed.end <= known.position:
            known.forget()  # No event: a notification, or the end.


def _something_first(handed: ops.ClaimResult) -> bool:
    return handed.expired or handed.due or handed.unfetched
