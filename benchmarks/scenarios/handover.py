"""Measure how long a lease takes to go from one holder to the next of fifty waiters.

Fifty waiters in five processes acquire one lease; each holds it for a moment, releases it, and
waits again. The figure is the time from the call that releases it to the moment when the next
waiter has it, by the machine's one monotonic clock. Beside it, in the same run, stands the fan-out
of an event: from the call that appends it to its arrival at a subscriber in another process.

Two holders at a time, or a fencing token that does not grow, are faults.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Sequence

from benchmarks.audit import Faults
from benchmarks.crew import Crew, crew
from benchmarks.figures import histogram
from benchmarks.harness import Arm, Comparison, Sample, Scenario, of_times
from benchmarks.scenarios._base import Bench, Entry
from pgmem import Event, Memory

PROCESSES, WAITERS = 5, 10
TURNS, EVENTS = 6, 300
"""Times that each waiter has the lease in a round; events of a round."""
PAUSE = 0.005
"""Seconds between two events, and seconds that a lease is held."""
LEASE, STREAM = "handover", "fanout"


class Worker:
    """Run a process with some waiters; its order "follow" makes it a subscriber.

    Args:
        number, url: as a `WorkFactory` has them.
    """

    def __init__(self, number: int, url: str) -> None:
        self._memory = Memory(url, pool=(1, WAITERS + 2)).open()
        self._followed = self._memory.events.subscribe(STREAM, after="now").__enter__()

    def go(self, order: str, start: float, argument: float) -> list[tuple[int, int, int]]:
        """Return (token, acquired at, released at) of each turn, or (0, sent at, arrived at)."""
        return self._follow() if order == "follow" else self._hold()

    def _follow(self) -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = []
        while len(found) < EVENTS:
            events = self._followed.receive(timeout=10)
            if not events:
                break
            now = time.perf_counter_ns()
            found += [(0, event.payload["at"], now) for event in events]
        return found

    def _hold(self) -> list[tuple[int, int, int]]:
        turns: list[tuple[int, int, int]] = []

        def wait() -> None:
            for _ in range(TURNS):
                lease = self._memory.leases.acquire(LEASE, ttl=30)
                had = time.perf_counter_ns()
                time.sleep(PAUSE)
                turns.append((lease.token, had, time.perf_counter_ns()))
                lease.release()

        threads = [threading.Thread(target=wait) for _ in range(WAITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return turns

    def close(self) -> None:
        """Close the memory."""
        self._memory.close()


def _hand_over(workers: Crew) -> Sample:
    turns = sorted(turn for answer in workers.run("hold", 0.0) for turn in answer)
    pairs = list(itertools.pairwise(turns))
    together = sum(had < gave_back for (_, _, gave_back), (_, had, _) in pairs)
    # At the beginning and the end of a round fewer waiters wait.
    full = pairs[WAITERS : -PROCESSES * WAITERS]
    faults = Faults(
        lost=PROCESSES * WAITERS * TURNS - len(turns),
        duplicated=together + len(turns) - len({token for token, _, _ in turns}),
    )
    return of_times(histogram(had - gave for (_, _, gave), (_, had, _) in full), faults)


class FanOut:
    """Send events to a subscriber in another process."""

    def __init__(self, memory: Memory, followers: Crew) -> None:
        self._memory = memory
        self._followers = followers

    def __call__(self) -> Sample:
        """Run one round."""
        writer = threading.Thread(target=self._write)
        writer.start()
        arrived = [one for answer in self._followers.run("follow", 0.0) for one in answer]
        writer.join()
        times = histogram(at - sent for _, sent, at in arrived)
        return of_times(times, Faults(lost=EVENTS - len(arrived)))

    def _write(self) -> None:
        for _ in range(EVENTS):
            time.sleep(PAUSE)
            sent = {"at": time.perf_counter_ns()}
            self._memory.events.append(STREAM, Event(type="t", payload=sent))


@contextlib.contextmanager
def handover(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run fifty waiters beside one subscriber, each arm in a database of its own."""
    with contextlib.ExitStack() as stack:
        held, followed = (stack.enter_context(bench.postgres.database()) for _ in range(2))
        waiters = stack.enter_context(crew(Worker, PROCESSES, held))
        followers = stack.enter_context(crew(Worker, 1, followed))
        memory = stack.enter_context(Memory(followed, pool=1))
        arms = [
            Arm("hand-over", lambda: _hand_over(waiters), "leases.acquire, release; 50 wait"),
            Arm("fan-out", FanOut(memory, followers), "append to a subscriber elsewhere"),
        ]
        yield [
            Scenario(
                "lease_handover",
                f"release of a lease to the next holder's start, {PROCESSES * WAITERS} waiters in "
                f"{PROCESSES} processes, strict",
                "µs",
                arms,
                [Comparison("hand-over", "fan-out", at_most=1.3)],
                rounds=bench.counted(6, 2),
            )
        ]


ENTRIES = (Entry("lease_handover", "release of a lease to its next holder", handover, (60, 15)),)
