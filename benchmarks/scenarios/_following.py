"""Share what the scenarios of following need: writers that stamp events, readers that time them.

A writer stamps the time into the payload right before it calls append; a reader takes the time when
it has the decoded event. Both read `time.monotonic`, which is one clock for all processes of a
machine. A paced writer also stamps when the event was due. A writer that falls behind sends late,
and the time from "due" on shows what the time from "sent" on would hide.

The last event of each writer says so, and ends a reader's round.

On Redis a writer sends the plain command by the client of `arms.right`; the published approach uses
its own methods. Their readers are in `_following_redis`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import orjson

from benchmarks.arms import published, right
from benchmarks.audit import NO_FAULTS, Faults, compare_each
from benchmarks.crew import until
from benchmarks.figures import PERCENTILES, histogram, microseconds
from benchmarks.harness import Sample, of_times
from benchmarks.scenarios._base import (
    AGENT,
    PLAIN_INSERT,
    STREAM,
    TYPE,
    append_statement,
    bare,
    payload,
)
from pgmem import AsyncMemory, Event, Memory, RecordedEvent, Subscription

NUMBERS = 1_000_000_000
"""Each writer's numbers begin at its own multiple of this."""
ROUND_TIMEOUT = 30.0
"""Seconds that a round may last; what has not arrived by then is lost."""
DRAIN = 0.05
"""Seconds that a reader waits for surplus events at the end of a round."""
WARM_EVENTS = 50

Append = Callable[[dict[str, Any]], None]


class Lane(NamedTuple):
    """Describe a way to append.

    Attributes:
        kind: the kind of store.
        url: the address of the store.
        durability: of a Memory.
        key: of the stream in Redis, or the prefix of the keys of the published approach.
    """

    kind: Literal["pgmem", "bare", "notifying", "redis", "published"]
    url: str
    durability: Literal["strict", "relaxed"] = "strict"
    key: str = ""


def stamped(number: int, due: float, *, last: bool) -> dict[str, Any]:
    """Return a payment of about 200 bytes that is stamped with the current time."""
    event = payload(number)
    del event["note"]
    event["last"] = last
    event["due"] = due
    event["sent"] = time.monotonic()
    return event


@contextlib.contextmanager
def appender(lane: Lane) -> Iterator[Append]:
    """Yield a function that appends a payload, on a connection of its own."""
    with contextlib.ExitStack() as stack:
        if lane.kind == "pgmem":
            memory = stack.enter_context(Memory(lane.url, pool=1, durability=lane.durability))

            def append(event: dict[str, Any]) -> None:
                memory.events.append(STREAM, Event(type=TYPE, payload=event, agent_id=AGENT))

        elif lane.kind in ("bare", "notifying"):
            connection = stack.enter_context(bare(lane.url))
            notifying = lane.kind == "notifying"
            statement = append_statement(connection, "if_free") if notifying else PLAIN_INSERT
            fixed = {"stream": STREAM, "type": TYPE, "agent_id": AGENT, "metadata": None}

            def append(event: dict[str, Any]) -> None:
                params = {**fixed, "payload": orjson.dumps(event).decode()}
                connection.execute(statement, params).fetchone()

        elif lane.kind == "redis":
            client = stack.enter_context(contextlib.closing(right.connect(lane.url)))

            def append(event: dict[str, Any]) -> None:
                fields = {"type": TYPE, "payload": orjson.dumps(event), "agent_id": AGENT}
                client.xadd(lane.key, fields)

        else:
            client = stack.enter_context(contextlib.closing(published.connect(lane.url)))
            memory_as_published = published.Published(client, prefix=lane.key)

            def append(event: dict[str, Any]) -> None:
                memory_as_published.write_event(AGENT, TYPE, event)

        yield append


def pace(append: Append, numbers: range, start: float, interval: float) -> None:
    """Append an event in each interval from `start` on, late ones at once."""
    # At a random moment of each interval, the same ones for every arm, so that writers neither run
    # in step nor avoid each other.
    rng = random.Random(numbers.start // NUMBERS)  # noqa: S311  # no secret
    for index, number in enumerate(numbers):
        due = start + (index + rng.random()) * interval
        until(due)
        append(stamped(number, due, last=number + 1 == numbers.stop))


class Writer:
    """Run one writer process, with a connection for each lane.

    Orders are "pace/LANE/COUNT", with the seconds between events as argument, and "rush/LANE", with
    its duration in seconds as argument.
    """

    def __init__(self, lanes: Mapping[str, Lane], number: int, url: str) -> None:
        self._stack = contextlib.ExitStack()
        self._appends = {
            name: self._stack.enter_context(appender(lane)) for name, lane in lanes.items()
        }
        self._next = number * NUMBERS

    def go(self, order: str, start: float, argument: float) -> range:
        """Append; return the numbers of the acknowledged events."""
        how, lane, *count = order.split("/")
        append, first = self._appends[lane], self._next
        if how == "pace":
            self._next += int(count[0])
            pace(append, range(first, self._next), start, argument)
        else:
            self._rush(append, start, start + argument)
        return range(first, self._next)

    def _rush(self, append: Append, start: float, end: float) -> None:
        until(start)
        last = False
        while not last:
            now = time.monotonic()
            last = now >= end
            append(stamped(self._next, now, last=last))
            self._next += 1

    def close(self) -> None:
        """Close the connections."""
        self._stack.close()


class Received(NamedTuple):
    """Hold what a reader received in a round, in its order.

    Attributes:
        numbers: of the events.
        sent, due: the stamps in them.
        at: when each one arrived.
        reordered: the number of events that came after a later place of the log.
    """

    numbers: list[int]
    sent: list[float]
    due: list[float]
    at: list[float]
    reordered: int

    def latencies(self) -> list[float]:
        """From "sent" to the arrival, in microseconds."""
        return [(at - sent) * 1e6 for at, sent in zip(self.at, self.sent, strict=True)]

    def delays(self) -> list[float]:
        """From "due" to the arrival, in microseconds."""
        return [(at - due) * 1e6 for at, due in zip(self.at, self.due, strict=True)]

    def audit(self, acknowledged: Sequence[Sequence[int]]) -> Faults:
        """Count the faults of the events that each writer had acknowledged."""
        return compare_each(acknowledged, self.numbers) + Faults(reordered=self.reordered)


class Tray:
    """Collect a round's events.

    Attributes:
        complete: True if the last event of every writer is there.
    """

    def __init__(self, writers: int) -> None:
        self._writers = writers
        self._got: list[tuple[int, float, float, float]] = []
        self._places: list[Any] = []
        self.complete = False

    def put(self, place: Any, event: dict[str, Any]) -> bool:
        """Record an event that has arrived; return True if it was the last one."""
        at = time.monotonic()
        # Not the event itself: keeping it would load the garbage collector.
        self._got.append((event["n"], event["sent"], event["due"], at))
        self._places.append(place)
        if event["last"]:
            self._writers -= 1
            self.complete = self._writers <= 0
        return self.complete

    def received(self, order: Callable[[Any], Any] = lambda place: place) -> Received:
        """Return all that was recorded; `order` makes places of the log comparable."""
        reordered = sum(b <= a for a, b in pairwise(map(order, self._places)))
        if not self._got:
            return Received([], [], [], [], reordered)
        numbers, sent, due, at = map(list, zip(*self._got, strict=True))
        return Received(numbers, sent, due, at, reordered)


def follow(memory: Memory, position: int, tray: Tray) -> int:
    """Follow from a position on until the round is over; return the position then."""
    with memory.events.subscribe(after=position) as events:
        follow_as(events, tray)
        return events.position


def follow_as(events: Subscription[RecordedEvent], tray: Tray) -> None:
    """Follow with an open subscription until the round is over."""
    watchdog = threading.Timer(ROUND_TIMEOUT, events.stop)
    watchdog.start()
    for event in events:
        if tray.put(event.position, event.payload):
            break
    watchdog.cancel()
    for event in events.receive(timeout=DRAIN):
        tray.put(event.position, event.payload)


async def follow_async(memory: AsyncMemory, position: int, tray: Tray) -> int:
    """Follow with an `AsyncMemory`; see `follow`."""
    async with memory.events.subscribe(after=position) as events:
        watchdog = asyncio.get_running_loop().call_later(ROUND_TIMEOUT, events.stop)
        async for event in events:
            if tray.put(event.position, event.payload):
                break
        watchdog.cancel()
        for event in await events.receive(timeout=DRAIN):
            tray.put(event.position, event.payload)
        return events.position


class SyncProcess:
    """Run a process with a `Memory`, which begins at the end of the log."""

    def __init__(self, number: int, url: str) -> None:
        self._memory = Memory(url, pool=1).open()
        with self._memory.events.subscribe(after="now") as events:
            self._position = events.position

    def close(self) -> None:
        """Close the memory."""
        self._memory.close()


class AsyncProcess:
    """Run a process with an `AsyncMemory`, on a loop of its own."""

    def __init__(self, number: int, url: str) -> None:
        self._loop = asyncio.Runner()
        self._memory = self._loop.run(AsyncMemory(url, pool=1).open())
        self._position = self._loop.run(self._now())

    async def _now(self) -> int:
        async with self._memory.events.subscribe(after="now") as events:
            return events.position

    def close(self) -> None:
        """Close the memory."""
        self._loop.run(self._memory.close())
        self._loop.close()


class SyncReader(SyncProcess):
    """Run one reader process with a `Memory`; its orders' argument is the number of writers."""

    def go(self, order: str, start: float, argument: float) -> Received:
        """Follow until every writer has sent its last event."""
        tray = Tray(int(argument))
        self._position = follow(self._memory, self._position, tray)
        return tray.received()


class AsyncReader(AsyncProcess):
    """Run one reader process with an `AsyncMemory`."""

    def go(self, order: str, start: float, argument: float) -> Received:
        """Follow until every writer has sent its last event."""
        tray = Tray(int(argument))
        self._position = self._loop.run(follow_async(self._memory, self._position, tray))
        return tray.received()


class BareReader:
    """Do the least that a listener can do: LISTEN, poll(), take the inline event of a notification.

    It polls no tables, so it is right only with one writer that never stays silent.
    """

    def __init__(self, number: int, url: str) -> None:
        self._connection = bare(url)
        row = self._connection.execute("SELECT channel FROM pgmem.meta").fetchone()
        assert row is not None
        self._connection.execute(f'LISTEN "{row[0]}"'.encode())
        self._poll = select.poll()
        self._poll.register(self._connection.pgconn.socket, select.POLLIN)

    def go(self, order: str, start: float, argument: float) -> Received:
        """Follow until every writer has sent its last event."""
        tray = Tray(int(argument))
        pgconn = self._connection.pgconn
        end = time.monotonic() + ROUND_TIMEOUT
        while not tray.complete and time.monotonic() < end:
            self._poll.poll(1_000)
            pgconn.consume_input()
            while notify := pgconn.notifies():
                for position, _, _, _, text, *_ in orjson.loads(notify.extra)[1:]:
                    tray.put(position, orjson.loads(text))
        return tray.received()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def as_sample(received: Received, acknowledged: Sequence[Sequence[int]]) -> Sample:
    """Return the sample of one reader of a paced round; see `as_sample_of`."""
    return as_sample_of([received], acknowledged)


def as_sample_of(
    readers: Sequence[Received],
    acknowledged: Sequence[Sequence[int]],
    figures: Mapping[str, float] | None = None,
) -> Sample:
    """Return the sample of several readers of a paced round, each of which should have all events.

    The sample's own figure and its times are from "sent" on. Its further figures are from "due" on.
    A stall delays all events that are due meanwhile, and counts for each of them, not only for the
    one that was under way (coordinated omission).

    Args:
        readers: what each of them received.
        acknowledged: each writer's numbers.
        figures: further figures by name.
    """
    faults = sum((received.audit(acknowledged) for received in readers), NO_FAULTS)
    latencies = [1e3 * us for received in readers for us in received.latencies()[WARM_EVENTS:]]
    delays = [1e3 * us for received in readers for us in received.delays()[WARM_EVENTS:]]
    if not latencies:
        return Sample(ROUND_TIMEOUT * 1e6, faults)
    due = histogram(delays)
    from_due = {f"{name} from due": microseconds(due, at) for name, at in PERCENTILES.items()}
    return of_times(histogram(latencies), faults, {**from_due, **(figures or {})})
