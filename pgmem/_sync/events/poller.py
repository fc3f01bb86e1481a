# Generated from pgmem/events/poller.py by tools/generate_sync.py. Do not edit.
"""Poll the end of the log, take in notifications, and hand out the events.

`receive` takes in what has arrived, and `send_due` sends what is due. Neither waits, so any task or
thread can do the next one (see `pgmem._sync.events.follower`). Only one does at a time.
"""

from __future__ import annotations

import logging
import time
from typing import NamedTuple, Protocol

import psycopg

from pgmem._sync.core.database import Database
from pgmem._sync.core.listener import Listener
from pgmem._sync.events.buffer import EventBuffer
from pgmem._sync.events.history_check import HistoryCheck
from pgmem.core.history import History, rewritten_error
from pgmem.core.op import Row
from pgmem.core.statements import CROWDED
from pgmem.events.columns import POSITION, STATE_KEY, STATE_VERSION
from pgmem.events.gap_tracker import GapTracker, PollResult
from pgmem.events.inline import parse_inline
from pgmem.events.page import (
    Page,
    PageSize,
    PollRequest,
    read_new,
    read_newest,
)
from pgmem.events.poll_schedule import PollSchedule
from pgmem.events.stable_position import WriterBarrier, Writers, read_writers

log = logging.getLogger("pgmem")

LATE_EVENTS = 2_000
"""Maximum number of events in open gaps that one poll reads. The next poll reads the rest."""
GAP_WARNING = 10.0
"""Seconds after which a warning tells that an open transaction delays all readers."""
MANY_INLINED = 50
"""If more notifications wait, one poll is cheaper than to take each of them."""
MANY_PENDING = 50
"""If more events wait for a gap, a reader is taken to want one of them."""


class LogObserver(Protocol):
    """A part of the memory that must learn of changes as soon as they are committed.

    Attributes:
        fresh_until: the follower has seen all changes that were committed until a moment ago, and
            will poll again before this moment (of the monotonic clock); 0.0 if it does not follow.
        used: set to True by each use. While it is not used, the follower may poll less often.
    """

    fresh_until: float
    used: bool

    def observe(self, key: str, version: int | None) -> None:
        """Take in that an event changed a state entry. A touch has no version."""

    def flush(self) -> None:
        """Forget what is known: changes may have been missed."""


class _Sent(NamedTuple):
    """The statement that is under way: a poll, or (without a request) a read of the writers."""

    at: float
    request: PollRequest | None
    unannounced: bool
    inlined: int = 0


class LogPoller:
    """Reads what is new in the log, in one session after another.

    Args:
        database: where the log is.
        listener: the connection.
        buffer: gets the events.
        observer: is told which state entries change, stable or not; None for none.
        check: remembers what was handed out, and compares it with the log.
        safety_poll: seconds between two polls if no notification arrives.

    Attributes:
        begun: True once a position to begin at was found.
    """

    def __init__(
        self,
        database: Database,
        listener: Listener,
        buffer: EventBuffer,
        observer: LogObserver | None,
        check: HistoryCheck,
        *,
        safety_poll: float,
    ) -> None:
        self._database = database
        self._listener = listener
        self._buffer = buffer
        self._observer = observer
        self._safety_poll = safety_poll
        self._schedule = PollSchedule(safety_poll)
        self._size = PageSize()
        self._barrier = WriterBarrier()
        self._sent: _Sent | None = None
        self._fresh = False
        self._head = 0
        self._gap_logged = 0
        self._polling_logged = False
        self._check = check
        self._seen = check.seen
        self.begun = False

    @property
    def position(self) -> int | None:
        """Everything up to it was handed out; None if the follower must begin anew."""
        tracker = self._buffer.tracker
        return None if tracker is None else tracker.position

    # Between sessions

    def reset(self) -> None:
        """Forget everything: the next session begins anew."""
        self._buffer.leave_off()
        self._seen.begin(())
        self.begun = False

    def rewind(self) -> None:
        """Go back to the position that is certain even if the server has crashed."""
        self._sent = None
        self._schedule = PollSchedule(self._safety_poll)
        self._buffer.rewind()
        self._head = self.position or 0

    def verify(self, found: History) -> None:
        """Check that the log still holds the events that were handed out.

        Args:
            found: the history that the new session has found.

        Raises:
            HistoryRewritten: a crash or a failover has undone the latest commits.
        """
        if found.timeline is not None and found != self._database.history:
            self._check.follow(self._listener.execute, found, rewound=True)
        else:
            self._check.verify(self._listener.execute)

    def prepare_to_begin(self) -> None:
        """Forget what depends on the old position."""
        self._schedule = PollSchedule(self._safety_poll)
        self._barrier = WriterBarrier()
        if self._observer is not None:
            # Changes below the new position are not observed.
            self._observer.fresh_until = 0.0
            self._observer.flush()

    def try_begin(self, target: int | None) -> int | None:
        """Begin if the log is stable up to `target`. Return the target to try again with, or None.

        Args:
            target: the head when this was tried first; None for the first time.
        """
        writers = self._listener.execute(read_writers())
        if target is None:
            self._head = target = writers.head
        self._buffer.raise_stable(self._barrier.observe(writers))
        # Reads of this process may have found it before.
        position = self._buffer.stable
        if position < target:
            return target
        # Subscriptions may have read these events by themselves.
        newest = self._listener.execute(read_newest(position))
        self._seen.begin(newest)
        self._buffer.begin(position)
        self.begun = True
        return None

    # In a session

    def receive(self) -> None:
        """Take in what has arrived: notifications, and the answer to what was sent.

        Raises:
            psycopg.Error: the connection is lost, or the server refused.
            HistoryRewritten: the log is another one.
        """
        answer = self._listener.receive()
        if self._listener.payloads:
            self._take_notifications()
        sent = self._sent
        if answer is not None and sent is not None:
            self._sent = None
            if sent.request is None:
                self._take_writers(answer)
            else:
                self._take_page(answer, sent, sent.request)

    def send_due(self) -> float:
        """Send what is due, unless a statement is under way. Return when to call it again.

        Raises:
            psycopg.Error: the connection is lost.
        """
        if self._listener.payloads:  # They came with the answer to another statement.
            self._take_notifications()
        tracker = self._buffer.tracker
        if self._sent is None and tracker is not None:
            now = time.monotonic()
            due = self._schedule.due(fresh=self._fresh)
            if due > now:
                return due
            self._send(tracker, now)
        return self._listener.answer_due

    def _send(self, tracker: GapTracker, now: float) -> None:
        if self._schedule.writers_due(now):
            self._sent = _Sent(now, None, unannounced=False)
            self._listener.send(read_writers())
            return
        request = tracker.request(self._size.limit, LATE_EVENTS)
        if self._observer is not None:
            self._fresh, self._observer.used = self._observer.used, False
        self._schedule.notified = self._listener.notified
        self._sent = _Sent(now, request, self._schedule.sent(now), self._seen.inlined)
        self._listener.send(read_new(request))

    def _take_notifications(self) -> None:
        """Take in the notifications that have arrived."""
        payloads = self._listener.payloads
        now = time.monotonic()
        if len(payloads) > MANY_INLINED:
            payloads.clear()  # One poll reads all of them.
            self._schedule.ask(now)
            return
        crowded = asked = False
        rows: list[Row] = []
        while payloads:
            payload = payloads.popleft()
            if payload == CROWDED:
                crowded = True
                continue
            # Any role that knows the channel can send a payload. The schema's owner may distrust
            # them: then a notification only triggers a poll.
            inlined = parse_inline(payload) if payload and self._database.inline else None
            if inlined is None:
                asked = True
            else:
                rows += inlined
        if rows:
            taken, left = self._buffer.accept(rows)
            self._seen.inlined += len(rows)
            self._hand_out(taken)
            asked = asked or left
            self._schedule.accepted(now, fresh=self._observer is not None)
        if asked:
            self._schedule.ask(now)
        if crowded:
            self._schedule.crowded(now, wanted=self._buffer.wants_any(rows))
        tracker = self._buffer.tracker
        if self._schedule.first_gap is not None or (tracker is not None and tracker.gaps):
            self._note_gaps(now, inlined=True)

    def _take_page(self, page: Page, sent: _Sent, request: PollRequest) -> None:
        """Take in what a poll has read."""
        database = self._database
        position = self._buffer.end
        if page.head.timeline not in (None, database.history.timeline):
            # A pooler has connected to another server. A new session checks what it holds.
            raise psycopg.OperationalError("the server is on another timeline")
        if page.head.head < self._head:
            raise rewritten_error(database.history, database.history, position)
        self._seen.polled(page.head.lsn, sent.inlined)
        self._head = page.head.head
        if page.head.trimmed is not None:
            # Retention removed events in front of the tracker. Each subscription finds out by
            # itself whether it misses any.
            self._buffer.leave_off()
            return
        taken = self._buffer.take_page(page, request)
        self._size.learn(page.rows)
        self._hand_out(taken)
        late = sum(1 for row in page.rows if row[POSITION] <= request.seen)
        above = len(page.rows) - late
        full = late >= request.late_limit or 0 < request.limit <= above
        now = time.monotonic()
        self._schedule.polled(now, found=bool(page.rows), full=full, unannounced=sent.unannounced)
        if self._schedule.lacks_notifications and database.may_listen:
            self.log_polling(
                "notifications do not arrive: a pooler in between (give listen_url=), or a full "
                "notification queue"
            )
        self._note_gaps(now, inlined=False)
        if self._observer is not None and not full and request.limit:
            self._observer.fresh_until = sent.at + self._safety_poll

    def _take_writers(self, writers: Writers) -> None:
        """Take in the open writers."""
        now = time.monotonic()
        tracker = self._buffer.tracker
        useful = tracker is not None and tracker.observe(writers)
        self._log_gap(self._schedule.gap_age(now))
        self._schedule.writers_read(now, useful=useful)

    def _note_gaps(self, now: float, *, inlined: bool) -> None:
        """Tell the schedule which gap is open, and whether a reader waits behind it."""
        tracker = self._buffer.tracker
        if tracker is None or not tracker.gaps:
            self._schedule.gap(now, None, wanted=False, inlined=inlined)
            return
        pending = tracker.pending
        # Nothing is known of an event in the gap. If none is pending, a reader may want that one.
        wanted = not pending or self._observer is not None or len(pending) > MANY_PENDING
        wanted = wanted or self._buffer.wants_any(pending)
        self._schedule.gap(now, tracker.gaps[0][0], wanted=wanted, inlined=inlined)

    def _hand_out(self, taken: PollResult) -> None:
        """Tell the observer, and remember what the buffer has handed out."""
        if self._observer is not None:
            # A change holds once it is committed, stable or not.
            for row in taken.seen:
                if row[STATE_KEY] is not None:
                    self._observer.observe(row[STATE_KEY], row[STATE_VERSION])
        if taken.stable:
            self._seen.add_followed(taken.stable)

    def log_polling(self, reason: str) -> None:
        """Log once that this memory polls."""
        if not self._polling_logged:
            self._polling_logged = True
            log.warning(
                "following %s by polling only: %s. Nothing is lost, events arrive later",
                self._database.where,
                reason,
            )

    def _log_gap(self, age: float) -> None:
        tracker = self._buffer.tracker
        if tracker is None or not tracker.gaps:
            return
        gap = tracker.gaps[0][0]
        if age > GAP_WARNING and self._gap_logged != gap:
            self._gap_logged = gap
            log.warning(
                "readers of %s have waited for position %d for %.0f s: a transaction that "
                "appended it is still open, or prepared (see pg_locks on the events table)",
                self._database.where,
                gap,
                age,
            )
