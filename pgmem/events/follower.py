"""Follow the end of the log with one connection, for all readers of a memory.

::

               notification                        ┌────────► EventBuffer ───► subscriptions
    server ═══► listener ──► inlined ──► GapTracker┤
       ▲            │        events          ▲     └────────► observer (the cache of state entries)
       └── poll ◄───┴── safety poll          │
            └──── events, gaps, writers ─────┘

    starting ──► following ──► connection lost ──► (pause) ──► following
        │            └──────► another history, no schema …  ──► failed: readers get the error;
        └ the writers of now are awaited; meanwhile               the next one starts it again
          subscriptions read by themselves

A notification, the safety poll or an open gap cause a poll. A poll reads everything new in one
statement. An inlined event that is the next one is handed out at once, and a poll follows. A
notification without an event moves no position.

The follower never waits for a reader, and writes nothing.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import deque
from datetime import datetime
from typing import Protocol

import psycopg

from pgmem.core.concurrency import AsyncWorker, Lock, async_sleep
from pgmem.core.database import AsyncDatabase
from pgmem.core.history import lost_error, rewritten_error
from pgmem.core.listener import AsyncListener
from pgmem.core.notifications import AsyncTargetedNotifications
from pgmem.core.outage import reason_of
from pgmem.core.sqlstates import translate
from pgmem.errors import NotOpen, PgmemError
from pgmem.events.buffer import AsyncEventBuffer
from pgmem.events.columns import POSITION, RECORDED_AT, STATE_KEY, STATE_VERSION
from pgmem.events.gap_tracker import GapTracker, PollResult
from pgmem.events.inline import parse_inline
from pgmem.events.page import PageSize, read_new, read_newest, read_recorded, standby_error
from pgmem.events.poll_schedule import GAP_FIRST, GAP_LAST, PollSchedule
from pgmem.events.stable_position import StablePosition, WriterBarrier, read_writers

log = logging.getLogger("pgmem")

LATE_EVENTS = 2_000
"""Maximum number of events in open gaps that one poll reads. The next poll reads the rest."""
GAP_GRACE = 0.005
"""Seconds in which a gap may close by itself before the lock table is read. Most gaps do."""
GAP_WARNING = 10.0
"""Seconds after which a warning tells that an open transaction delays all readers."""
MANY_INLINED = 20
"""If more inlined events wait, one poll is cheaper than to take each of them."""
VERIFIED_EVENTS = 5_000
"""Number of the latest events that are compared with the log after a lost connection. It is more
than a server commits in the time that a crash can undo."""
BUSY_EVENTS = 8
BUSY_LAST = 0.003
"""After a poll that found `BUSY_EVENTS`, the follower pauses as long as the poll took, at most
`BUSY_LAST` seconds."""
RETRY_FIRST, RETRY_LAST = 0.02, 1.0
"""Seconds between two tries to connect. A restarted server is back within about one."""


class LogObserver(Protocol):
    """A part of the memory that must learn of changes as soon as they are committed.

    Attributes:
        fresh_until: the follower has seen all changes that were committed until a moment ago, and
            will poll again before this moment (of the monotonic clock); 0.0 if it does not follow.
    """

    fresh_until: float

    def observe(self, key: str, version: int | None) -> None:
        """Take in that an event changed a state entry. A touch has no version."""

    def flush(self) -> None:
        """Forget what is known: changes may have been missed."""


class AsyncLogFollower:
    """Follows the end of the log and hands events to the buffer.

    Args:
        database: where the log is.
        buffer: gets the stable events.
        stable: is told how far the log is stable.
        observer: is told which state entries change, stable or not; None for none.
        notifications: delivers targeted notifications.
        safety_poll: seconds between two polls if no notification arrives.
    """

    def __init__(
        self,
        database: AsyncDatabase,
        buffer: AsyncEventBuffer,
        stable: StablePosition,
        observer: LogObserver | None,
        notifications: AsyncTargetedNotifications,
        *,
        safety_poll: float,
    ) -> None:
        self._database = database
        self._buffer = buffer
        self._stable = stable
        self._observer = observer
        self._safety_poll = safety_poll
        self._notifications = notifications
        self._listener = AsyncListener(database, notifications)
        self._lock = Lock()
        self._worker: AsyncWorker | None = None
        self._closing = False
        self._tracker: GapTracker | None = None
        self._begun = False
        self._head = 0
        self._size = PageSize()
        self._schedule = PollSchedule(safety_poll)
        self._gap_since = 0.0
        self._gap_logged = 0
        self._polling_logged = False
        self._lost_at = 0.0
        self._handed: deque[tuple[int, datetime]] = deque(maxlen=VERIFIED_EVENTS)

    def start(self) -> None:
        """Start following, unless it follows.

        Raises:
            NotOpen: the memory is closed, or was opened before a fork.
            HistoryRewritten: the log is not the one that the memory was opened on.
        """
        self._database.require_open("follow the log")
        self._database.check_history()
        with self._lock:
            if self._closing:
                raise NotOpen("follow the log: this memory was closed")
            if self._worker is None or not self._worker.alive:
                self._tracker, self._begun = None, False
                self._handed.clear()
                self._worker = AsyncWorker(self._run, "pgmem-follower")

    def reopen(self) -> None:
        """Allow `start` again after `close`."""
        if self._closing:
            self._closing = False
            self._lost_at = 0.0
            self._listener = AsyncListener(self._database, self._notifications)

    async def close(self) -> None:
        """Stop following. All subscriptions end."""
        with self._lock:
            self._buffer.stop()  # First, so that a reader that is refused knows that it must end.
            self._closing = True
            worker = self._worker
        if worker is not None:
            self._listener.wake()
            await worker.join(1.0)
        self._listener.close()

    async def _run(self) -> None:
        failures = 0
        try:
            while not self._closing:
                try:
                    await self._follow()
                except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
                    # A session that got past its beginning was a success.
                    failures = failures + 1 if self._lost_at else 1
                    self._log_loss(error)
                    self._rewind()
                    await self._listener.disconnect()
                    pause = min(RETRY_LAST, RETRY_FIRST * 2**failures)
                    await async_sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
        except PgmemError as error:
            self._buffer.fail(error)
        except psycopg.Error as error:
            self._buffer.fail(translate(error, "follow the log"))
        except Exception as error:
            log.exception("following %s ended by an error", self._database.where)
            self._buffer.fail(error)
        finally:
            self._buffer.live = False
            if self._observer is not None:
                self._observer.fresh_until = 0.0
            await self._listener.disconnect()

    def _log_loss(self, error: Exception) -> None:
        if not self._lost_at:
            self._lost_at = time.monotonic()
            if not self._closing:
                self._database.outage.begin("follower", reason_of(error))

    def _rewind(self) -> None:
        """Go back to the position that is certain even if the server has crashed."""
        self._tracker = self._tracker and self._tracker.rewound()
        certain = self._tracker.position if self._tracker else None
        self._buffer.rewind(certain)
        self._stable.forget(certain or 0)
        self._head = certain or 0
        self._gap_since = 0.0

    async def _follow(self) -> None:
        """Connect and follow until the connection is lost or the memory is closed."""
        history = await self._listener.connect()
        self._notifications.wake_all()
        if self._observer is not None:
            self._observer.flush()
        self._database.record_history(history)
        self._database.check_history(self._tracker.position if self._tracker else None)
        if history.timeline is None:
            self._refuse_standby()
        if not self._database.may_listen:
            self._log_polling("this role may not read the notification channel")
        await self._verify()
        if self._tracker is not None:
            self._lost_at = 0.0
        self._database.outage.end("follower")
        while not self._closing:
            if self._tracker is None:
                await self._begin()
            elif await self._poll(self._tracker):
                await self._wait(self._tracker)
                await self._take_inlined(self._tracker)

    async def _verify(self) -> None:
        """Check that the log still holds the events that were handed out.

        A crash of the server may have undone the latest commits.
        """
        if self._handed and not await self._listener.execute(read_recorded(self._handed)):
            raise lost_error(self._database.history, self._handed[-1][0])

    def _refuse_standby(self) -> None:
        if self._begun:
            # A failover is under way: the follower waits for its end.
            raise psycopg.OperationalError("the server is a standby now")
        raise standby_error()

    async def _begin(self) -> None:
        """Find a stable position, and follow from there."""
        if self._observer is not None:
            # Changes below that position are not observed.
            self._observer.fresh_until = 0.0
            self._observer.flush()
        barrier = WriterBarrier()
        writers = await self._listener.execute(read_writers())
        self._head = target = writers.head
        pause = GAP_FIRST
        while not self._closing:
            self._stable.raise_to(barrier.observe(writers))
            # Subscriptions that read by themselves may have found it before.
            if self._stable.position >= target:
                self._tracker = GapTracker(self._stable.position)
                # Subscriptions may have read these events by themselves.
                newest = await self._listener.execute(read_newest(self._tracker.position))
                self._handed.clear()
                self._handed.extend(newest)
                self._buffer.begin(self._tracker.position)
                self._begun = True
                self._lost_at = 0.0
                return
            await self._listener.wait(pause)
            self._listener.notified = False
            self._listener.inlined.clear()
            pause = min(pause * 2, GAP_LAST)
            writers = await self._listener.execute(read_writers())

    async def _poll(self, tracker: GapTracker) -> bool:
        """Read what is new. Return True if the follower may wait before the next poll."""
        notified, self._listener.notified = self._listener.notified, False
        started = time.monotonic()
        limit = 0 if tracker.full else self._size.limit
        page = await self._listener.execute(
            read_new(tracker.seen, tracker.gaps, limit=limit, late=LATE_EVENTS)
        )
        self._database.check_timeline(page.head.timeline, tracker.position)
        if page.head.head < self._head:
            raise rewritten_error(self._database.history, self._database.history, tracker.position)
        self._head = page.head.head
        if page.head.trimmed is not None:
            # Retention removed events in front of the tracker. Each subscription finds out by
            # itself whether it misses any.
            self._tracker = None
            self._buffer.live = False
            return False
        before = tracker.position
        found = len(page.rows)
        taken = tracker.take(page, limit=limit, late_limit=LATE_EVENTS)
        self._size.learn(page.rows)
        self._hand_out(tracker, taken)
        self._schedule.polled(notified=notified, found=found > 0)
        if self._schedule.lacks_notifications and self._database.may_listen:
            self._log_polling(
                "notifications do not arrive: a pooler in between (give listen_url=), or a full "
                "notification queue"
            )
        if not tracker.gaps:
            self._gap_since = 0.0
        elif tracker.position > before or not self._gap_since:
            self._gap_since = started
            self._schedule.open_gap()
        full = found >= max(1, limit)
        if self._observer is not None and not full and limit:
            self._observer.fresh_until = started + self._safety_poll
        if found >= BUSY_EVENTS and not full:
            await async_sleep(min(BUSY_LAST, time.monotonic() - started))
        return not full

    def _hand_out(self, tracker: GapTracker, taken: PollResult) -> bool:
        """Hand events to observer and buffer. Return True if a reader may want one of them."""
        if self._observer is not None:
            # A change holds once it is committed, stable or not.
            for row in taken.seen:
                if row[STATE_KEY] is not None:
                    self._observer.observe(row[STATE_KEY], row[STATE_VERSION])
        self._handed.extend((row[POSITION], row[RECORDED_AT]) for row in taken.stable)
        wanted = self._observer is not None
        if taken.stable or tracker.position != self._buffer.end:
            wanted |= self._buffer.add(taken.stable, tracker.position)
        self._stable.raise_to(tracker.position)
        return wanted

    async def _wait(self, tracker: GapTracker) -> None:
        """Wait until there is a reason to poll again."""
        if not tracker.gaps:
            await self._listener.wait(self._schedule.pause())
            self._schedule.waited(notified=self._listener.notified)
            return
        waited = time.monotonic() - self._gap_since
        if waited > GAP_GRACE:
            writers = await self._listener.execute(read_writers())
            tracker.observe(writers)
            self._log_gap(tracker, waited)
        await self._listener.wait(self._schedule.pause_in_gap(waited))

    async def _take_inlined(self, tracker: GapTracker) -> None:
        """Hand out the events that came with notifications."""
        if len(self._listener.inlined) > MANY_INLINED:
            self._listener.inlined.clear()  # One poll reads all of them.
        deadline = math.inf
        while self._listener.inlined:
            accepted, wanted = True, False
            while self._listener.inlined:
                row = parse_inline(self._listener.inlined.popleft())
                taken = None if row is None else tracker.accept(row)
                if taken is None:
                    accepted = False
                else:
                    wanted |= self._hand_out(tracker, taken)
            if self._schedule.found or tracker.gaps or not accepted:
                return
            now = time.monotonic()
            deadline = min(deadline, now + self._schedule.pause_after_inlined(wanted=wanted))
            if now >= deadline:
                return
            self._listener.notified = False
            await self._listener.wait(deadline - now)
            self._listener.notified = True

    def _log_polling(self, reason: str) -> None:
        if not self._polling_logged:
            self._polling_logged = True
            log.warning(
                "following %s by polling only: %s. Nothing is lost, events arrive later",
                self._database.where,
                reason,
            )

    def _log_gap(self, tracker: GapTracker, waited: float) -> None:
        gap = tracker.gaps[0][0]
        if waited > GAP_WARNING and self._gap_logged != gap:
            self._gap_logged = gap
            log.warning(
                "readers of %s have waited for position %d for %.0f s: a transaction that "
                "appended it is still open, or prepared (see pg_locks on the events table)",
                self._database.where,
                gap,
                waited,
            )
