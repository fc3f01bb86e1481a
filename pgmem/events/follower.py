"""The one reader of a memory that follows the end of the log, for all who want to know of it.

::

                  bell                           ┌────────► feed ───► subscriptions, blocking reads
    server ═══► listener ──► letters ──► Tail ───┤
       ▲            │                     ▲      └────────► cache (what has changed)
       └── look ◄───┴── safety poll       │
            └──── events, gaps, writers ──┘

    starting ──► following ──► connection lost ──► (pause) ──► following
        │            └──────► another history, the schema is gone …  ──► failed: followers get the
        └ writers of before are awaited; meanwhile subscriptions            error; the next one to
          read by themselves                                                come starts it again

A bell, the safety poll and an open gap lead to a look; a look reads all that is new in one
statement. An event that rides on the bell, and is the next one, is given out at once; the look
follows. Nothing that arrives from the bell moves the position but such an event.

It never waits for a follower, and writes nothing.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import deque
from datetime import datetime

import psycopg

from pgmem.core.concurrency import AsyncWorker, Lock, async_sleep
from pgmem.core.database import AsyncDatabase
from pgmem.core.history import lost_error, rewritten_error
from pgmem.core.listener import AsyncListener
from pgmem.core.notifications import AsyncTargetedNotifications
from pgmem.core.sqlstates import translate
from pgmem.errors import NotOpen, PgmemError
from pgmem.events.buffer import AsyncEventBuffer
from pgmem.events.columns import POSITION, RECORDED_AT, STATE_KEY, STATE_VERSION
from pgmem.events.gap_tracker import GapTracker, PollResult
from pgmem.events.page import (
    PageSize,
    open_letter,
    read_newest,
    read_recorded,
    read_tail,
    standby_error,
)
from pgmem.events.stable_position import StablePosition, WriterBarrier, read_writers
from pgmem.state.cache import StateCache

log = logging.getLogger("pgmem")

LATE_EVENTS = 2_000
"""At most so many events of open gaps in one look: the rest comes with the next."""
GAP_FIRST, GAP_LAST, GAP_LONG = 0.001, 0.02, 0.25
"""Seconds between two looks at an open gap: at first, soon, and where it has been open for long. A
commit ends the pause, for it rings."""
GAP_PATIENCE = 0.005
"""Seconds that a gap may close by itself before the lock table is asked: most do."""
GAP_WARNING = 10.0
"""Seconds after which somebody is told that an open transaction holds everybody up."""
LOOK_LATER = 0.002
LOOK_LATEST = 0.01
"""Seconds that the look behind a letter may wait, at first and at most, while such looks find
nothing: then one look serves several letters."""
LOOK_UNWANTED = 0.1
"""The same behind letters that nobody in this process wants: where a hundred processes follow one
log, a look of each at every event would be most of the server's work."""
LOOK_AGAIN = 0.05
"""Seconds after which it looks once more when there was something: for a writer that stayed silent
because of one whose bell was heard already, or never rang because it rolled back."""
MANY_LETTERS = 20
"""With more of them waiting, one look is cheaper than to open each."""
VERIFIED_EVENTS = 5_000
"""So many of the events given out last are compared with the log after a lost connection: more than
a server commits in the moment that a crash can take back."""
BUSY_EVENTS = 8
BUSY_SHARE = 1.0
"""Looks that find many events leave the server alone for as long as they took."""
BUSY_LAST = 0.003
POLL_FIRST = 0.05
UNANNOUNCED = 3
"""So many looks in a row that found events no bell had told of mean that bells do not arrive; from
the second on it polls after so many seconds."""
RETRY_FIRST, RETRY_LAST = 0.02, 1.0
"""Seconds between two tries to connect: a restarted server is back within about one."""


class AsyncLogFollower:
    """Follows the log, and feeds those who follow it.

    Args:
        database: where the log is.
        feed: gets the final events.
        frontier: is told how far the log is final.
        cache: is told which entries have changed.
        signals: are told what arrives for those who wait for something else than events.
        safety_poll: seconds after which it looks without having heard a bell.
    """

    def __init__(
        self,
        database: AsyncDatabase,
        buffer: AsyncEventBuffer,
        stable: StablePosition,
        cache: StateCache | None,
        notifications: AsyncTargetedNotifications,
        *,
        safety_poll: float,
    ) -> None:
        self._database = database
        self._buffer = buffer
        self._stable = stable
        self._cache = cache
        self._safety_poll = safety_poll
        self._notifications = notifications
        self._listener = AsyncListener(database, notifications)
        self._lock = Lock()
        self._worker: AsyncWorker | None = None
        self._closing = False
        self._tail: GapTracker | None = None
        self._begun = False
        self._head = 0
        self._size = PageSize()
        self._gap_pause = GAP_FIRST
        self._gap_since = 0.0
        self._gap_told = 0
        self._fruitful = True
        self._again = False
        self._look_later = LOOK_LATER
        self._poll_pause = safety_poll
        self._by_poll = False
        self._unannounced = 0
        self._told_polling = False
        self._lost_at = 0.0
        self._given: deque[tuple[int, datetime]] = deque(maxlen=VERIFIED_EVENTS)

    def start(self) -> None:
        """Follow, if that is not so already.

        Raises:
            NotOpen: the memory is closed, or was opened before a fork.
            HistoryRewritten: the log is another one than the memory was opened on.
        """
        self._database.require_open("follow the log")
        self._database.check_history()
        with self._lock:
            if self._closing:
                raise NotOpen("follow the log: this memory was closed")
            if self._worker is None or not self._worker.alive:
                self._tail, self._begun = None, False
                self._given.clear()
                self._worker = AsyncWorker(self._run, "pgmem-tailer")

    async def close(self) -> None:
        """Stop following; subscriptions end."""
        with self._lock:
            self._buffer.stop()  # First: who finds it closing knows that it is to end.
            self._closing = True
            worker = self._worker
        if worker is not None:
            self._listener.wake()
            await worker.join(2.0)
        self._listener.close()

    async def _run(self) -> None:
        failures = 0
        try:
            while not self._closing:
                try:
                    await self._session()
                except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
                    # Whatever followed the beginning of a session was a success.
                    failures = failures + 1 if self._lost_at else 1
                    self._lose(error)
                    self._forget()
                    await self._listener.disconnect()
                    pause = min(RETRY_LAST, RETRY_FIRST * 2**failures)
                    await async_sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
        except PgmemError as error:
            self._buffer.fail(error)
        except psycopg.Error as error:
            self._buffer.fail(translate(error, "follow the log"))
        except Exception as error:
            log.exception("the feed of %s ended by an error", self._database.where)
            self._buffer.fail(error)
        finally:
            self._buffer.live = False
            if self._cache is not None:
                self._cache.fresh_until = 0.0
            await self._listener.disconnect()

    def _lose(self, error: Exception) -> None:
        if not self._lost_at:
            self._lost_at = time.monotonic()
            if not self._closing:
                log.warning(
                    "the feed lost its connection to %s (%s): reconnecting; subscriptions wait",
                    self._database.where,
                    " ".join(str(error).split()) or type(error).__name__,
                )

    def _forget(self) -> None:
        """Go back to what is certain even if the server has crashed."""
        self._tail = self._tail and self._tail.forgotten()
        certain = self._tail.position if self._tail else None
        self._buffer.rewind(certain)
        self._stable.forget(certain or 0)
        self._head = certain or 0
        self._gap_since = 0.0

    async def _session(self) -> None:
        """Connect and follow, until the connection is lost or the memory is closed."""
        history = await self._listener.connect()
        self._notifications.wake_all()
        if self._cache is not None:
            self._cache.flush()
        self._database.record_history(history)
        self._database.check_history(self._tail.position if self._tail else None)
        if history.timeline is None:
            self._refuse_standby()
        if not self._database.may_listen:
            self._tell_polling("this role may not read the doorbell's channel")
        await self._verify()
        if self._lost_at and self._tail is not None:
            log.warning(
                "the feed is back at %s after %.1f s: nothing was skipped",
                self._database.where,
                time.monotonic() - self._lost_at,
            )
            self._lost_at = 0.0
        while not self._closing:
            if self._tail is None:
                await self._begin()
            elif await self._look(self._tail):
                await self._rest(self._tail)
                await self._hear(self._tail)

    async def _verify(self) -> None:
        """Look whether what was given out is still there: a crash may have lost its end."""
        if self._given and not await self._listener.execute(read_recorded(self._given)):
            raise lost_error(self._database.history, self._given[-1][0])

    def _refuse_standby(self) -> None:
        if self._begun:
            # A failover is under way: whoever follows already waits for its end.
            raise psycopg.OperationalError("the server is a standby now")
        raise standby_error()

    async def _begin(self) -> None:
        """Find a position below which everything is final, and follow from there."""
        if self._cache is not None:
            # What changes below that position is not observed.
            self._cache.fresh_until = 0.0
            self._cache.flush()
        watch = WriterBarrier()
        writers = await self._listener.execute(read_writers())
        self._head = target = writers.head
        pause = GAP_FIRST
        while not self._closing:
            self._stable.raise_to(watch.observe(writers))
            # Subscriptions that read by themselves may have found it out before us.
            if self._stable.position >= target:
                self._tail = GapTracker(self._stable.position)
                # Followers may have read these by themselves.
                newest = await self._listener.execute(read_newest(self._tail.position))
                # It may have begun before: they include what was given out then.
                self._given.clear()
                self._given.extend(newest)
                self._buffer.begin(self._tail.position)
                self._begun = True
                self._lost_at = 0.0
                return
            await self._listener.wait(pause)
            self._listener.notified = False
            self._listener.inlined.clear()
            pause = min(pause * 2, GAP_LAST)
            writers = await self._listener.execute(read_writers())

    async def _look(self, tail: GapTracker) -> bool:
        """Read what is new; tells whether to rest before the next look."""
        heard, self._listener.notified = self._listener.notified, False
        started = time.monotonic()
        limit = 0 if tail.full else self._size.limit
        page = await self._listener.execute(
            read_tail(tail.seen, tail.gaps, limit=limit, late=LATE_EVENTS)
        )
        self._database.check_timeline(page.head.timeline, tail.position)
        if page.head.head < self._head:
            raise rewritten_error(self._database.history, self._database.history, tail.position)
        self._head = page.head.head
        if page.head.trimmed is not None:
            # Retention overtook us. Each follower finds out by itself whether it misses events.
            self._tail = None
            self._buffer.live = False
            return False
        before = tail.position
        new = len(page.rows)
        taken = tail.take(page, limit=limit, late_limit=LATE_EVENTS)
        self._size.learn(page.rows)
        self._give(tail, taken)
        self._fruitful = new > 0
        self._again = heard or new > 0
        self._look_later = LOOK_LATER if new else min(LOOK_LATEST, self._look_later * 1.5)
        self._judge_bell(heard, found=new > 0)
        if tail.gaps:
            if tail.position > before or not self._gap_since:
                self._gap_pause, self._gap_since = GAP_FIRST, started
        else:
            self._gap_since = 0.0
        full = new >= max(1, limit)
        if self._cache is not None and not full and limit:
            self._cache.fresh_until = started + self._safety_poll
        if new >= BUSY_EVENTS and not full:
            await async_sleep(min(BUSY_LAST, BUSY_SHARE * (time.monotonic() - started)))
        return not full

    def _give(self, tail: GapTracker, taken: PollResult) -> bool:
        """Hand on what a look or a letter has brought; tells whether somebody may want it."""
        if self._cache is not None:
            # A change is true when it is committed, whether or not its event is final.
            for row in taken.seen:
                if row[STATE_KEY] is not None:
                    self._cache.observe(row[STATE_KEY], row[STATE_VERSION])
        self._given.extend((row[POSITION], row[RECORDED_AT]) for row in taken.final)
        wanted = self._cache is not None
        if taken.final or tail.position != self._buffer.end:
            wanted |= self._buffer.add(taken.final, tail.position)
        self._stable.raise_to(tail.position)
        return wanted

    async def _rest(self, tail: GapTracker) -> None:
        """Wait until there is a reason to look again."""
        if not tail.gaps:
            # A little early, so that the cache stays fresh over the look.
            pause = self._poll_pause * 0.9
            await self._listener.wait(min(pause, LOOK_AGAIN) if self._again else pause)
            self._by_poll = not self._listener.notified
            return
        waited = time.monotonic() - self._gap_since
        if waited > GAP_PATIENCE:
            writers = await self._listener.execute(read_writers())
            tail.observe(writers)
            self._tell_gap(tail, waited)
        await self._listener.wait(self._gap_pause)
        # Who commits rings; only a rollback waits for this pause. It may be long where the
        # transaction is.
        self._gap_pause = min(self._gap_pause * 1.5, max(GAP_LAST, min(waited / 10, GAP_LONG)))

    async def _hear(self, tail: GapTracker) -> None:
        """Take in the events that came with the bell."""
        if len(self._listener.inlined) > MANY_LETTERS:
            # We are behind: one look takes in all of them.
            self._listener.inlined.clear()
        deadline = math.inf
        while self._listener.inlined:
            known, wanted = True, False
            while self._listener.inlined:
                row = open_letter(self._listener.inlined.popleft(), self._listener.zone)
                taken = None if row is None else tail.accept(row)
                if taken is None:
                    known = False
                else:
                    wanted |= self._give(tail, taken)
            if self._fruitful or tail.gaps or not known:
                return
            now = time.monotonic()
            unwanted = min(LOOK_UNWANTED, self._poll_pause)
            deadline = min(deadline, now + (self._look_later if wanted else unwanted))
            if now >= deadline:
                return
            self._listener.notified = False
            await self._listener.wait(deadline - now)
            self._listener.notified = True

    def _judge_bell(self, heard: bool, *, found: bool) -> None:
        """Look more often while events come without a bell, and say so once."""
        if heard:
            self._unannounced = 0
            self._poll_pause = self._safety_poll
        elif found and self._by_poll:
            self._unannounced += 1
            if self._unannounced > 1:  # Once may be a silent writer.
                self._poll_pause = min(self._safety_poll, POLL_FIRST)
            if self._unannounced == UNANNOUNCED and self._database.may_listen:
                self._tell_polling(
                    "notifications do not arrive: a pooler between (give listen_url=), or a full "
                    "notification queue"
                )
        else:
            self._poll_pause = min(self._safety_poll, self._poll_pause * 1.5)
        self._by_poll = False

    def _tell_polling(self, reason: str) -> None:
        if not self._told_polling:
            self._told_polling = True
            log.warning(
                "following %s by polling only: %s. Nothing is lost, events arrive later",
                self._database.where,
                reason,
            )

    def _tell_gap(self, tail: GapTracker, waited: float) -> None:
        gap = tail.gaps[0][0]
        if waited > GAP_WARNING and self._gap_told != gap:
            self._gap_told = gap
            log.warning(
                "the feed of %s has been waiting for position %d for %.0f s: a transaction that "
                "appended it is still open, or prepared (see pg_locks on the events table)",
                self._database.where,
                gap,
                waited,
            )
