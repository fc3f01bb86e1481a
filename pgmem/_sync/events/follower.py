# Generated from pgmem/events/follower.py by tools/generate_sync.py. Do not edit.
"""Follow the end of the log with one connection, for all readers of a memory.

::

               notification                      ┌────────► EventBuffer ───► subscriptions
    server ═══► listener ──► inlined events ─────┤    ▲
       ▲            │                            └────│───► observer (the cache of state entries)
       └── poll ◄───┴── safety poll, gap              │
            └──── events, open writers ───────────────┘

A waiter reads the connection itself. The first task or thread that waits (`wait`) takes the
reader's role: it waits for the socket, takes in what arrives, and so has its event without a second
wake-up. It wakes the other waiters that its events are for. When it leaves, it hands the role to
another waiter. The worker reads while no waiter has done so for a moment (`GRACE`), and it alone
connects, finds a stable position to begin at and handles a lost connection::

    worker:   connecting ──► beginning ──► reading ──► standing by ──► reading …
                  ▲                           │ a waiter comes  ▲ │ no waiter for a moment
                  └──── connection lost ◄─────┴─────────────────┴─┘
                  another history, no schema … ──► failed: readers get the error; the next one
                                                   starts it again

The role's holder never waits for an answer of the server: `LogPoller` sends a statement, and
takes the answer in when it has arrived. So a waiter that is cancelled or out of time leaves nothing
undone, and the next holder goes on.

The follower never waits for a reader of events, and writes nothing.
"""

from __future__ import annotations

import logging
import math
import time

import psycopg

from pgmem._sync.core.database import Database
from pgmem._sync.core.listener import Listener
from pgmem._sync.core.notifications import TargetedNotifications
from pgmem._sync.events.buffer import EventBuffer
from pgmem._sync.events.history_check import HistoryCheck
from pgmem._sync.events.poller import LogObserver, LogPoller
from pgmem.core.concurrency import Lock, Wakeup, Worker, sleep
from pgmem.core.outage import ReconnectPause, reason_of
from pgmem.core.sqlstates import translate
from pgmem.errors import HistoryRewritten, NotOpen, PgmemError
from pgmem.events.page import standby_error

log = logging.getLogger("pgmem")

GRACE, GRACE_WANTED = 0.25, 0.005
"""Seconds without a reader after which the worker reads: usually, and if a cache or a waiter for a
targeted notification needs what arrives. A subscriber that handles an event is back before that."""
BEGIN_FIRST, BEGIN_LAST = 0.001, 0.02
"""Seconds between two looks at the open writers, to begin."""
TAKE_PAUSE = 0.005
"""Seconds between two tries of the worker to take the role from a waiter that is about to leave."""


class LogFollower:
    """Follows the end of the log and hands events to the buffer.

    Args:
        database: where the log is.
        buffer: gets the events.
        observer: is told which state entries change, stable or not; None for none.
        notifications: delivers targeted notifications.
        check: compares what was handed out with the log.
        safety_poll: seconds between two polls if no notification arrives.
    """

    def __init__(
        self,
        database: Database,
        buffer: EventBuffer,
        observer: LogObserver | None,
        notifications: TargetedNotifications,
        check: HistoryCheck,
        *,
        safety_poll: float,
    ) -> None:
        self._database = database
        self._buffer = buffer
        self._observer = observer
        self._notifications = notifications
        self._check = check
        self._safety_poll = safety_poll
        self._lock = Lock()
        self._worker: Worker | None = None
        self._closing = False
        self._make_session_parts()

    def _make_session_parts(self) -> None:
        """Make what belongs to one opening of the memory, and to one event loop."""
        self._listener = Listener(self._database, self._notifications)
        self._poller = LogPoller(
            self._database,
            self._listener,
            self._buffer,
            self._observer,
            self._check,
            safety_poll=self._safety_poll,
        )
        self._wakeup = Wakeup()  # the worker's
        self._lost_at = 0.0
        # The reader's role. The worker has it from the beginning, and shares it while it may.
        self._role = Lock()
        self._role.acquire()
        self._shared = False
        self._by_worker = True
        self._waiters: dict[Wakeup, None] = {}
        self._left_at = 0.0
        self._alerted = False
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Start following, unless it follows.

        Raises:
            NotOpen: the memory is closed, or was opened before a fork.
        """
        self._database.require_open("follow the log")
        with self._lock:
            if self._closing:
                raise NotOpen("follow the log: this memory was closed")
            if self._worker is None or not self._worker.alive:
                if self._worker is not None:
                    # It may have ended with its event loop, and a waiter of that loop had the role.
                    self._listener.close()
                    self._make_session_parts()
                self._poller.reset()
                self._worker = Worker(self._run, "pgmem-follower")

    def reopen(self) -> None:
        """Allow `start` again after `close`."""
        if self._closing:
            self._closing = False
            self._make_session_parts()

    def close(self) -> None:
        """Stop following. All subscriptions end."""
        with self._lock:
            self._buffer.stop()  # First, so that a reader that is refused knows that it must end.
            self._closing = True
            worker = self._worker
        if worker is not None:
            self._wakeup.set()
            self._listener.wake()
            worker.join(1.0)
        self._listener.close()

    # Waiting

    def wait(self, wakeup: Wakeup, timeout: float | None) -> bool:
        """Wait for a call of `wakeup`, and read the connection meanwhile if no other waiter does.

        Args:
            wakeup: the caller's own.
            timeout: maximum wait in seconds; None for ever. 0 takes in what has arrived.

        Returns:
            True if there may be something for the caller; False after the timeout.

        Raises:
            NotOpen: the memory is closed, or was opened before a fork.
        """
        self._database.require_open("follow the log")
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        if not self._take_role():
            self._waiters[wakeup] = None
            try:
                # The reader may have left before this one was registered.
                if not self._take_role():
                    if self._shared and self._by_worker:
                        self._listener.wake()
                    return wakeup.wait(timeout)
            finally:
                self._waiters.pop(wakeup, None)
        try:
            return self._read(wakeup, deadline)
        finally:
            self._leave_role()

    def _take_role(self, *, worker: bool = False) -> bool:
        """Take the role if it is free. A waiter leaves it to the worker if that must act."""
        if not self._role.acquire(blocking=False):
            return False
        if worker or not self._must_end():
            return True
        self._role.release()
        return False

    def _leave_role(self) -> None:
        """Give the role up: to the latest waiter, and to the worker if that does not come."""
        self._left_at = time.monotonic()
        self._role.release()
        if self._must_end():
            self._wakeup.set()
            return
        if self._waiters:
            try:
                successor = next(reversed(self._waiters), None)
            except RuntimeError:  # Changed by another thread meanwhile: the worker sees to it.
                successor = None
            if successor is not None:
                successor.set()
        if not self._alerted:
            self._alerted = True
            self._wakeup.set()

    def _read(self, wakeup: Wakeup, deadline: float) -> bool:
        """Read the connection until `wakeup` is called or the deadline is over."""
        poller, listener = self._poller, self._listener
        while True:
            try:
                due = poller.send_due()
            except BaseException as error:
                return self._note_failure(error)
            pause = min(due, deadline) - time.monotonic()
            if listener.wait(pause, wakeup) or listener.busy or pause <= 0:
                try:
                    poller.receive()
                except BaseException as error:
                    return self._note_failure(error)
            if wakeup.wait(0) or self._must_end():
                return True
            if pause <= 0 and deadline <= due:
                return False

    def _note_failure(self, error: BaseException) -> bool:
        """Leave an error to the worker. Meanwhile the caller waits as others do."""
        self._failure = error
        if not isinstance(error, Exception):
            raise error
        return True

    # The worker

    def _run(self) -> None:
        reconnect = ReconnectPause()
        try:
            while not self._closing:
                try:
                    self._follow()
                except HistoryRewritten as error:
                    # Its readers have been told. Caches and waiters of leases follow the new log.
                    self._lost_at = time.monotonic()
                    self._buffer.fail(error)
                    self._poller.reset()
                    self._listener.disconnect()
                except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
                    if not self._lost_at:  # A session that got past its beginning was a success.
                        reconnect.succeeded()
                    self._log_loss(error)
                    self._poller.rewind()
                    pause = reconnect.failed(time.monotonic() - self._listener.reached)
                    self._listener.disconnect()
                    sleep(pause)
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
            self._listener.disconnect()

    def _log_loss(self, error: Exception) -> None:
        if not self._lost_at:
            self._lost_at = time.monotonic()
        if not self._closing:
            self._database.outage.begin("follower", reason_of(error), self._listener.reached)

    def _follow(self) -> None:
        """Connect and follow until the connection is lost or the memory is closed."""
        history = self._listener.connect()
        self._notifications.wake_all()
        if self._observer is not None:
            self._observer.flush()
        if history.timeline is None:
            self._refuse_standby()
        if not self._database.may_listen:
            self._poller.log_polling("this role may not read the notification channel")
        self._poller.verify(history)
        if self._poller.position is not None:
            self._lost_at = 0.0
        self._database.outage.end("follower")
        self._listener.reached = time.monotonic()
        while not self._closing:
            if self._poller.position is None:
                self._begin()
            else:
                self._share()

    def _refuse_standby(self) -> None:
        if self._poller.begun:
            # A failover is under way: the follower waits for its end.
            raise psycopg.OperationalError("the server is a standby now")
        raise standby_error()

    def _begin(self) -> None:
        """Find a stable position, and follow from there."""
        target: int | None = None
        pause = BEGIN_FIRST
        self._poller.prepare_to_begin()
        while not self._closing:
            target = self._poller.try_begin(target)
            if target is None:
                self._lost_at = 0.0
                return
            self._listener.wait(pause)
            pause = min(pause * 2, BEGIN_LAST)

    def _share(self) -> None:
        """Read the connection while no waiter does, until the session must end or begin anew."""
        self._failure = None
        self._shared = True
        try:
            while not self._must_end():
                self._read_for_all()
                if self._must_end():
                    break
                self._by_worker = False
                self._leave_role()
                self._stand_by()
                self._by_worker = True
        finally:
            self._shared = False
        failure, self._failure = self._failure, None
        if failure is None:
            return
        if not isinstance(failure, Exception):
            # It came between two steps of a waiter's thread: only the log is certain.
            self._poller.reset()
            raise psycopg.OperationalError("interrupted while reading the connection")
        raise failure

    def _must_end(self) -> bool:
        return self._closing or self._failure is not None or self._buffer.tracker is None

    def _read_for_all(self) -> None:
        """Read until a waiter comes."""
        while not (self._must_end() or self._waiters):
            self._poller.receive()
            due = self._poller.send_due()
            self._wakeup.wait(0)
            if not (self._must_end() or self._waiters):
                self._listener.wait(due - time.monotonic(), self._wakeup)

    def _stand_by(self) -> None:
        """Take the role when no waiter has had it for a moment, or when the worker must act.

        While readers come and go, it checks once a grace. Only after a reader has stayed for one
        does the next that leaves alert it: to wake a thread costs that reader more than its event.
        """
        while True:
            held = self._role.locked()
            missing = self._left_at + self._grace() - time.monotonic()
            if self._must_end():
                if self._take_role(worker=True):
                    return
                self._listener.wake()
                self._wakeup.wait(TAKE_PAUSE)
            elif missing > 0:
                self._wakeup.wait(missing)
            elif held:
                self._alerted = False
                # A reader that left before the line above did not alert this one.
                if self._role.locked():
                    self._wakeup.wait(None)
            elif self._take_role(worker=True):
                return

    def _grace(self) -> float:
        wanted = self._observer is not None or self._waiters or self._notifications.awaited
        return GRACE_WANTED if wanted else GRACE
