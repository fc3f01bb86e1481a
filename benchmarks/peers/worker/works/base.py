"""Define what the peers' works share: the orders' rounds, and the parts of an answer.

Times are raw; the benchmark computes the figures. A time begins right before the payload is
encoded, and ends when the call has returned or the decoded payload is there.
"""

from __future__ import annotations

import abc
import asyncio
import random
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Protocol

# As in benchmarks/scenarios/_following.py: these must be the same for all arms.
ROUND_TIMEOUT = 30.0
DRAIN = 0.05

Payload = dict[str, Any]
Answer = dict[str, Any]


class Work(Protocol):
    """Define what a peer does."""

    def go(self, order: str, count: int, start: float, argument: float) -> Answer:
        """Carry out an order from `start` (of `time.monotonic`) on."""

    def close(self) -> None:
        """Close what is open."""


class UnknownOrder(Exception):
    """Raised if this peer does not know an order."""


def until(start: float) -> None:
    """Wait for a moment of `time.monotonic`."""
    delay = start - time.monotonic()
    if delay > 0:
        time.sleep(delay)


def timed(call: Callable[[int], object], numbers: range, start: float) -> list[int]:
    """Make calls one after another; return the time of each in nanoseconds."""
    clock = time.perf_counter_ns
    times = []
    until(start)
    for number in numbers:
        before = clock()
        call(number)
        times.append(clock() - before)
    return times


def paced(payload: Payload, numbers: range, start: float, interval: float) -> Iterator[Payload]:
    """Yield an event in each interval from `start` on, late ones at once, stamped when taken.

    The random moments are those of writer 0 of pgmem's arms.
    """
    rng = random.Random(0)  # noqa: S311  # no secret
    for index, number in enumerate(numbers):
        due = start + (index + rng.random()) * interval
        until(due)
        last = number + 1 == numbers.stop
        yield {**payload, "n": number, "last": last, "due": due, "sent": time.monotonic()}


def status(number: int) -> str:
    """Return the status of a document; one in 30 is open."""
    return "closed" if number % 30 else "open"


class Tray:
    """Collect what was delivered in a round.

    Attributes:
        complete: True if the last event of every writer is there.
    """

    def __init__(self, writers: int) -> None:
        self._writers = writers
        self._got: list[tuple[int, float, float, float]] = []
        self._places: list[int] = []
        self.complete = False

    def put(self, place: int, event: Payload) -> bool:
        """Record an event that has arrived; return True if it was the last one."""
        at = time.monotonic()
        self._got.append((event["n"], event["sent"], event["due"], at))
        self._places.append(place)
        self._writers -= event["last"]
        self.complete = self._writers <= 0
        return self.complete

    def answer(self) -> Answer:
        """Return all that was recorded."""
        names = ("numbers", "sent", "due", "at")
        columns = zip(*self._got, strict=True) if self._got else ((),) * len(names)
        reordered = sum(later <= earlier for earlier, later in pairwise(self._places))
        return {**dict(zip(names, map(list, columns), strict=True)), "reordered": reordered}


class Numbers:
    """Hand out numbers that no event has had yet."""

    def __init__(self) -> None:
        self._next = 1

    def take(self, count: int) -> range:
        """Return the next numbers."""
        first = self._next
        self._next += count
        return range(first, self._next)


def acknowledged(numbers: range, times: list[int]) -> Answer:
    """Return what was written, and how long each call took."""
    return {"first": numbers.start, "stop": numbers.stop, "times": times}


class Follower(abc.ABC):
    """Run a worker on a loop of its own; its only order is "follow".

    Args:
        url: the database.
        loop: the event loop.
    """

    def __init__(self, url: str, loop: asyncio.Runner) -> None:
        self._url = url
        self._loop = loop

    def go(self, order: str, count: int, start: float, argument: float) -> Answer:
        """Work until the last job of each writer has started."""
        if order != "follow":
            raise UnknownOrder(order)
        tray = Tray(int(argument))
        self._loop.run(self._follow(tray))
        return tray.answer()

    @abc.abstractmethod
    async def _follow(self, tray: Tray) -> None:
        """Record what comes until the tray is complete."""

    def close(self) -> None:
        """Close the loop."""
        self._loop.close()


async def until_done(done: asyncio.Event, running: asyncio.Task[Any]) -> None:
    """Wait until a round is done and surplus events could arrive, or until its time is over.

    Args:
        done: set by the last event.
        running: the task that works on the round.
    """
    waiting: asyncio.Task[Any] = asyncio.create_task(done.wait())
    try:
        await asyncio.wait(
            (waiting, running), timeout=ROUND_TIMEOUT, return_when=asyncio.FIRST_COMPLETED
        )
        if running.done():
            await running  # It ends only by an error.
        await asyncio.sleep(DRAIN)
    finally:
        waiting.cancel()


def connection_parameters(url: str) -> dict[str, str]:
    """Return the parts of a URL or connection string; libpq's defaults fill the gaps."""
    from psycopg.conninfo import conninfo_to_dict

    known = {"host": "localhost", "port": "5432", "user": "postgres", "password": ""}
    found = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    merged = {**known, **found}
    return {**merged, "dbname": merged.get("dbname", merged["user"])}
