"""Queue calls while others are under way, and execute together what has queued.

A few calls at a time are executed at once, each by its caller. A call that comes meanwhile queues.
When most of those have ended, all that have queued are executed together::

    calls 1 to 4 ──► executed at once ────► their answers
    calls 5 to 9 ──► queue ··············└─► executed together ──► each caller its own outcome
    calls 10 to 40 ──► queue ····························└─► executed together

So a lone call never waits, and the more calls there are, the more share a round trip. Tasks and
threads differ in everything but that, so both forms stand here by hand. What is executed, and how,
is `pgmem.core.coalesce`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

from pgmem.core.op import Op, Retry, Row

S = TypeVar("S")

Outcome = Sequence[Row] | Exception
"""The rows of one call, or its error."""


class AsyncCall:
    """A task's call in the queue.

    Attributes:
        op: what it executes.
        deadline: when the caller gives up, by the monotonic clock.
        sent: True from when it is executed.
        answered: True if it has its outcome.
        outcome: its rows or its error.
    """

    __slots__ = ("answered", "deadline", "op", "outcome", "sent", "waiter")

    def __init__(self, op: Op[Any], deadline: float, waiter: asyncio.Future[None]) -> None:
        self.op = op
        self.deadline = deadline
        self.sent = self.answered = False
        self.outcome: Outcome = ()
        self.waiter = waiter

    def finish(self, outcome: Outcome) -> None:
        """Wake the task, unless it has given up."""
        self.answered = True
        self.outcome = outcome
        if not self.waiter.done():
            self.waiter.set_result(None)


class AsyncCallQueue:
    """The queue of one kind of calls, for tasks.

    What has queued is sent at once, and a task of its own waits for the answer. So the cancellation
    of one caller does not disturb the others.

    Args:
        send: send calls together, without waiting.
        receive: return an outcome for each of the calls that were sent.
        expired: return the error of a call that got no answer in time.
        admitted: how many calls are executed at once before calls queue.
        parallel: how many are under way, at most, when what has queued is executed.
        full: how many calls queue before they are sent in the middle of a turn of the loop.
        most: how many calls are executed together at most.
    """

    def __init__(
        self,
        send: Callable[[Sequence[AsyncCall]], S],
        receive: Callable[[Sequence[AsyncCall], S], Awaitable[list[Outcome]]],
        expired: Callable[[AsyncCall], Exception],
        *,
        admitted: int,
        parallel: int,
        full: int,
        most: int,
    ) -> None:
        self._send: Callable[[Sequence[AsyncCall]], Any] = send
        self._receive: Callable[[Sequence[AsyncCall], Any], Awaitable[list[Outcome]]] = receive
        self._expired = expired
        self._admitted = admitted
        self._parallel = parallel
        self._full = full
        self._most = most
        self._loop: asyncio.AbstractEventLoop | None = None

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Forget the calls of an event loop that has ended."""
        self._loop = loop
        self._under_way = 0
        self._waiting: deque[AsyncCall] = deque()
        self._running: list[list[AsyncCall]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._now = self._admitted  # 1 after a long queue: lone calls cost as much as many together

    def admit(self) -> bool:
        """Return True if the caller may execute its call at once; it calls `leave` after that."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._begin(loop)
        if self._waiting or self._under_way >= self._now:
            return False
        self._under_way += 1
        return True

    def join(self, op: Op[Any], deadline: float) -> AsyncCall:
        """Queue a call that was not admitted, and return it for `wait`."""
        loop = asyncio.get_running_loop()
        call = AsyncCall(op, deadline, loop.create_future())
        waiting = self._waiting
        waiting.append(call)
        if self._timer is None:
            self._start_timer(loop, deadline)
        if len(waiting) >= self._full and self._under_way < self._parallel:
            self._start()
        return call

    def leave(self) -> None:
        """Let what has queued be executed after a call that was admitted."""
        self._under_way -= 1
        if self._waiting and self._under_way < self._parallel:
            self._start()

    def _start(self) -> None:
        calls = self._take()
        if not calls:
            return
        self._now = self._admitted if len(calls) <= self._admitted else 1
        self._under_way += 1
        self._running.append(calls)
        task = asyncio.get_running_loop().create_task(
            self._run(calls, self._send(calls)), name="pgmem-calls"
        )
        self._tasks.add(task)  # The loop itself does not keep it.
        task.add_done_callback(self._tasks.discard)

    async def wait(self, call: AsyncCall) -> Sequence[Row]:
        """Wait for the rows of a queued call.

        Raises:
            Exception: the call's own error.
        """
        try:
            await call.waiter
        except asyncio.CancelledError:
            if call.sent and not call.answered and call.op.retry is not Retry.READ:
                # It cannot be taken back. The caller's next call must come after it.
                call.waiter = call.waiter.get_loop().create_future()
                await call.waiter
            raise
        if isinstance(call.outcome, Exception):
            raise call.outcome
        return call.outcome

    def _take(self) -> list[AsyncCall]:
        """Take calls from the queue, without those whose callers have given up."""
        taken: list[AsyncCall] = []
        while self._waiting and len(taken) < self._most:
            call = self._waiting.popleft()
            if not call.waiter.done():
                call.sent = True
                taken.append(call)
        return taken

    async def _run(self, calls: list[AsyncCall], sent: Any) -> None:
        outcomes: list[Outcome] = []
        try:
            outcomes = await self._receive(calls, sent)
        finally:
            # There are no outcomes if the loop is shutting down: it cancels all tasks.
            for call, outcome in zip(calls, outcomes or map(self._expired, calls), strict=True):
                call.finish(outcome)
            self._running.remove(calls)
            self.leave()

    def _start_timer(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        # One timer for all: deadlines come in the order of the calls, as all have one timeout.
        self._timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = time.monotonic()
        running = [call for calls in self._running for call in calls]
        left = [call for call in (*running, *self._waiting) if not call.waiter.done()]
        for call in left:
            if call.deadline <= now:
                call.finish(self._expired(call))
        deadlines = [call.deadline for call in left if call.deadline > now]
        if deadlines:
            self._start_timer(loop, min(deadlines))


class Call:
    """A thread's call in the queue.

    Attributes:
        op: what it executes.
        deadline: when the caller gives up, by the monotonic clock.
        sent: True from when it is executed.
        answered: True if it has its outcome.
        outcome: its rows or its error.
        leads: the calls that this thread has to execute, its own among them.
        following: the call whose thread this one wakes. If one thread woke all, they would wake at
            once, wait for Python's lock and interrupt each other: 2.8 switches a call instead of 2.
    """

    __slots__ = (
        "answered",
        "deadline",
        "following",
        "interruptible",
        "leads",
        "op",
        "outcome",
        "sent",
        "wakeup",
    )  # fmt: skip

    def __init__(self, op: Op[Any], deadline: float) -> None:
        self.op = op
        self.deadline = deadline
        self.sent = self.answered = False
        self.outcome: Outcome = ()
        self.leads: list[Call] | None = None
        self.following: Call | None = None
        # Python raises KeyboardInterrupt in the main thread only.
        self.interruptible = threading.current_thread() is threading.main_thread()
        self.wakeup = threading.Lock()
        self.wakeup.acquire()

    def finish(self, outcome: Outcome) -> None:
        """Set the outcome."""
        self.answered = True
        self.outcome = outcome


class CallQueue:
    """The queue of one kind of calls, for threads.

    What has queued is executed by one of the waiting threads. It is never the main thread if there
    is another, so Ctrl-C does not disturb the calls of other threads.

    Args:
        send: send calls together, without waiting.
        receive: return an outcome for each of the calls that were sent.
        expired: return the error of a call that got no answer in time.
        admitted: how many calls are executed at once before calls queue.
        parallel: how many are under way, at most, when what has queued is executed.
        full: is not needed in threads.
        most: how many calls are executed together at most.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Call]], S],
        receive: Callable[[Sequence[Call], S], list[Outcome]],
        expired: Callable[[Call], Exception],
        *,
        admitted: int,
        parallel: int,
        full: int,
        most: int,
    ) -> None:
        del full
        self._send: Callable[[Sequence[Call]], Any] = send
        self._receive: Callable[[Sequence[Call], Any], list[Outcome]] = receive
        self._expired = expired
        self._free: list[None] = [None] * admitted  # taking one is atomic
        self._most_free = admitted - parallel
        self._most_kept = admitted - 1
        self._kept = 0  # all but one after a long queue: lone calls cost as much as many together
        self._most = most
        self._lock = threading.Lock()
        self._waiting: deque[Call] = deque()

    def admit(self) -> bool:
        """Return True if the caller may execute its call at once; it calls `leave` after that."""
        if self._waiting or len(self._free) <= self._kept:
            return False
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    def join(self, op: Op[Any], deadline: float) -> Call:
        """Queue a call that was not admitted, and return it for `wait`."""
        call = Call(op, deadline)
        with self._lock:
            self._waiting.append(call)
            self._appoint()
        return call

    def leave(self) -> None:
        """Let what has queued be executed after a call that was admitted."""
        # First free, then look, while `join` first queues, then looks: neither can miss the other.
        self._free.append(None)
        if self._waiting:
            with self._lock:
                self._appoint()

    def _appoint(self) -> None:
        """Let a thread execute what has queued, if fewer than `parallel` are under way."""
        if not self._waiting or len(self._free) <= self._most_free:
            return
        try:
            self._free.pop()
        except IndexError:
            return
        calls = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        self._kept = self._most_kept if len(calls) > self._most_kept + 1 else 0
        self._lead_by_one_of(calls)

    def _lead_by_one_of(self, calls: list[Call]) -> None:
        """Choose the thread that executes the calls. The caller holds the lock."""
        # The last one has the latest deadline, which bounds the execution of all.
        leader = next((call for call in reversed(calls) if not call.interruptible), calls[-1])
        for call in calls:
            call.sent = True
        leader.leads = calls
        leader.wakeup.release()

    def wait(self, call: Call) -> Sequence[Row]:
        """Wait for the rows of a queued call, and execute the queue if this thread is chosen.

        Raises:
            Exception: the call's own error.
        """
        woken = False
        try:
            woken = call.wakeup.acquire(timeout=max(0.0, call.deadline - time.monotonic()))
        finally:
            if not woken:
                self._give_up(call)
            if call.following is not None:
                call.following.wakeup.release()
        if call.leads is not None:
            self._lead(call.leads)
        if isinstance(call.outcome, Exception):
            raise call.outcome
        return call.outcome

    def _give_up(self, call: Call) -> None:
        """Take a call back whose time is over, or whose thread was interrupted."""
        with self._lock:
            if call.answered:
                return
            if call.leads is not None:
                calls, call.leads = call.leads, None
                calls.remove(call)
                call.sent = False
                if calls:
                    self._lead_by_one_of(calls)
                else:
                    self._free.append(None)
                    self._appoint()
            elif not call.sent:
                self._waiting.remove(call)
            call.finish(self._expired(call))

    def _lead(self, calls: list[Call]) -> None:
        outcomes: list[Outcome] = []
        try:
            outcomes = self._receive(calls, self._send(calls))
        finally:
            with self._lock:
                chain: list[Call] = []
                for call, outcome in zip(calls, outcomes or map(self._expired, calls), strict=True):
                    if not call.answered:
                        call.finish(outcome)
                        if call.leads is None:
                            chain.append(call)
                for call, following in pairwise(chain):
                    call.following = following
            if chain:
                chain[0].wakeup.release()
            self.leave()
