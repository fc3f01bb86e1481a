"""Calls that queue are executed together, and each caller gets its own outcome in time."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from pgmem.core.call_queue import AsyncCallQueue, CallQueue
from pgmem.core.op import Op, Retry

NEVER = 1e9


class LateError(Exception):
    """The error of a call that got no answer in time."""


def op(number: int, retry: Retry = Retry.UNSAFE) -> Op:
    return Op("", {}, lambda rows: rows, str(number), retry)


def later() -> float:
    return time.monotonic() + NEVER


class Execution:
    """Stands for the server: it holds what is executed until `go` is set.

    Attributes:
        executed: the names of the calls that were executed together, for each time.
    """

    def __init__(self) -> None:
        self.executed: list[list[str]] = []
        self.go = asyncio.Event()

    def send(self, calls) -> list[str]:
        self.executed.append([call.op.action for call in calls])
        return self.executed[-1]

    async def async_receive(self, calls, names):
        await self.go.wait()
        return [[(name,)] for name in names]

    def receive(self, calls, names):
        return [[(name,)] for name in names]

    def queue(self, kind, receive, **sizes):
        sizes = {"admitted": 1, "parallel": 1, "full": 1000, "most": 3} | sizes
        return kind(self.send, receive, lambda call: LateError(call.sent), **sizes)


@pytest.fixture
def execution():
    return Execution()


@pytest.fixture
async def tasks(execution):  # async: the queue needs an event loop
    """A queue for tasks, one call of which is under way."""
    queue = execution.queue(AsyncCallQueue, execution.async_receive)
    assert queue.admit()
    return queue


@pytest.fixture
def threads(execution):
    """A queue for threads, one call of which is under way."""
    queue = execution.queue(CallQueue, execution.receive)
    assert queue.admit()
    return queue


def waits(queue, number: int, deadline: float | None = None):
    """Queue a call and wait for it in a task of its own."""
    assert not queue.admit()
    call = queue.join(op(number), deadline or later())
    return asyncio.ensure_future(queue.wait(call))


async def test_tasks_that_queued_are_executed_together_up_to_the_most(tasks, execution):
    waiting = [waits(tasks, number) for number in range(1, 6)]
    tasks.leave()
    execution.go.set()
    assert await asyncio.gather(*waiting) == [[(str(number),)] for number in range(1, 6)]
    assert execution.executed == [["1", "2", "3"], ["4", "5"]]


async def test_a_task_after_the_queue_has_emptied_is_executed_at_once(tasks, execution):
    waiting = waits(tasks, 1)
    execution.go.set()
    tasks.leave()
    await waiting
    await asyncio.sleep(0)
    assert tasks.admit()
    tasks.leave()
    assert tasks.admit()


async def test_a_full_queue_is_sent_before_the_loop_has_resumed_other_tasks(execution):
    """So the server works while the loop resumes the rest."""
    queue = execution.queue(AsyncCallQueue, execution.async_receive, parallel=2, full=2)
    assert queue.admit()
    waiting = [waits(queue, number) for number in (1, 2, 3, 4)]
    assert execution.executed == [["1", "2"]]  # no task has run yet; two are under way
    queue.leave()
    assert execution.executed == [["1", "2"], ["3", "4"]]
    execution.go.set()
    assert await asyncio.gather(*waiting) == [[(str(number),)] for number in (1, 2, 3, 4)]


async def test_after_many_have_queued_one_call_alone_is_executed_at_once(execution):
    """Four lone statements beside a queue of a hundred would cost as much as the hundred."""
    queue = execution.queue(AsyncCallQueue, execution.async_receive, admitted=2, parallel=2)
    assert queue.admit()
    assert queue.admit()
    waiting = [waits(queue, number) for number in (1, 2, 3)]
    queue.leave()
    queue.leave()
    execution.go.set()
    await asyncio.gather(*waiting)
    assert queue.admit()
    waiting = [waits(queue, 4)]
    queue.leave()
    await asyncio.gather(*waiting)
    assert [queue.admit(), queue.admit(), queue.admit()] == [True, True, False]


async def test_a_task_cancelled_in_the_queue_is_not_executed(tasks, execution):
    waiting = [waits(tasks, number) for number in (1, 2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    tasks.leave()
    execution.go.set()
    assert await waiting[1] == [("2",)]
    assert execution.executed == [["2"]]


async def test_a_cancelled_write_ends_when_it_has_been_executed(tasks, execution):
    waiting = [waits(tasks, number) for number in (1, 2)]
    await asyncio.sleep(0)
    tasks.leave()
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    assert not waiting[0].done()
    execution.go.set()
    assert await waiting[1] == [("2",)]
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]


async def test_a_task_that_gets_no_answer_in_time_knows_if_it_was_sent(tasks, execution):
    sent = waits(tasks, 1, time.monotonic() + 0.01)
    await asyncio.sleep(0)
    tasks.leave()
    await asyncio.sleep(0)
    assert execution.executed == [["1"]]
    queued = waits(tasks, 2, time.monotonic() + 0.02)
    assert [str(error) for error in await asyncio.gather(sent, queued, return_exceptions=True)] == [
        "True", "False",
    ]  # fmt: skip
    execution.go.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert execution.executed == [["1"]]


async def test_the_end_of_the_loop_leaves_no_task_waiting(tasks, execution):
    waiting = [waits(tasks, number) for number in (1, 2)]
    await asyncio.sleep(0)
    tasks.leave()
    await asyncio.sleep(0)
    for task in asyncio.all_tasks():
        if task.get_name() == "pgmem-calls":
            task.cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LateError] * 2
    assert tasks.admit()


def in_thread(call):
    """Start a call in a thread; return a function that joins it and returns the result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()

    def join():
        thread.join(20)
        return results[0]

    return join


def queued_in_thread(queue, number: int):
    """Queue a call in a thread that waits for it, and return when it has queued."""
    before = len(queue._waiting)
    join = in_thread(lambda: queue.wait(queue.join(op(number), time.monotonic() + 60)))
    while len(queue._waiting) == before:
        time.sleep(0.001)
    return join


def test_threads_that_queued_are_executed_together_up_to_the_most(threads, execution):
    joins = [queued_in_thread(threads, number) for number in range(1, 6)]
    threads.leave()
    assert [join() for join in joins] == [[(str(number),)] for number in range(1, 6)]
    assert execution.executed == [["1", "2", "3"], ["4", "5"]]
    assert threads.admit()


def test_after_many_threads_have_queued_one_call_alone_is_executed_at_once(execution):
    queue = execution.queue(CallQueue, execution.receive, admitted=2, parallel=2)
    assert [queue.admit(), queue.admit()] == [True, True]
    joins = [queued_in_thread(queue, number) for number in (1, 2, 3)]
    queue.leave()
    queue.leave()
    for join in joins:
        join()
    assert [queue.admit(), queue.admit()] == [True, False]
    queue.wait(queue.join(op(4), time.monotonic() + 60))
    queue.leave()
    assert [queue.admit(), queue.admit(), queue.admit()] == [True, True, False]


def test_the_main_thread_executes_no_calls_of_others(threads, execution):
    """Ctrl-C comes there, and would end them."""
    join = queued_in_thread(threads, 1)
    own = threads.join(op(2), time.monotonic() + 60)
    threads.leave()
    assert join() == [("1",)]
    assert own.leads is None
    assert threads.wait(own) == [("2",)]


def test_a_chosen_thread_that_gives_up_hands_over(threads, execution):
    calls = []
    for number in (1, 2):
        in_thread(lambda number=number: calls.append(threads.join(op(number), later())))()
    threads.leave()
    chosen, other = calls[1], calls[0]
    assert chosen.leads == calls
    threads._give_up(chosen)
    assert threads.wait(other) == [("1",)]
    assert execution.executed == [["1"]]
    assert threads.admit()


def test_a_thread_that_gets_no_answer_in_time_leaves_the_queue(threads, execution):
    call = threads.join(op(1), time.monotonic())
    with pytest.raises(LateError, match="False"):
        threads.wait(call)
    threads.leave()
    assert execution.executed == []
    assert threads.admit()


def test_an_execution_that_ends_in_an_exception_leaves_no_thread_waiting(threads):
    def interrupted(calls, names):
        raise KeyboardInterrupt

    threads._receive = interrupted
    calls = []
    for number in (1, 2):
        in_thread(
            lambda number=number: calls.append(threads.join(op(number), time.monotonic() + 60))
        )()
    threads.leave()
    with pytest.raises(KeyboardInterrupt):
        threads.wait(calls[1])
    with pytest.raises(LateError, match="True"):
        threads.wait(calls[0])
    assert threads.admit()


def test_a_queue_begins_anew_in_another_event_loop(execution):
    queue = execution.queue(AsyncCallQueue, execution.async_receive)

    async def enter_two():
        assert queue.admit()
        assert not queue.admit()

    asyncio.run(enter_two())
    asyncio.run(enter_two())
