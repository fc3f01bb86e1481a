"""The members of consumer groups: how each way takes and ends deliveries, and what became of them.

A member is a process with a connection of its own to each way's store, 16 members are 16 processes.
It takes a batch, holds it, and ends it in the round trip that takes the next one (or in one of its
own, where a way is about that). It holds one batch at a time and notes when it asked for it, when
it had it, and when its end was acknowledged: from the notes of all members `audit` counts what was
lost, handed out twice, or out of order.

Nothing is killed here and no lease runs out: an event that is handed out twice is wrong.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from multiprocessing.synchronize import Event as Flag
from typing import Any, Literal, NamedTuple, Protocol

from benchmarks.arms import records, right
from benchmarks.arms.right import Right
from benchmarks.audit import Faults
from benchmarks.crew import until
from benchmarks.scenarios._base import AGENT, TYPE, payload
from benchmarks.scenarios._following import PATIENCE, Received, Tray
from pgmem import Delivery, Event, Memory

LEASE = 30.0
"""Seconds for which pgmem hands out; Redis has none. No round takes as long."""
IDLE = 0.5
"""Seconds that a member without a delivery waits for one before it takes all for handed out."""
POLL = 0.2
"""Seconds that it waits where events come at a rate, before it looks whether the round is over."""
CHUNK = 1_000
"""Events that are appended in one call."""

Payload = dict[str, Any]


class End(NamedTuple):
    """Where a way's groups are, and how its members end deliveries.

    Attributes:
        kind: with what.
        url: where.
        durability: of a Memory.
        prefix: what the names of its streams and groups begin with.
        together: in the round trip that takes the next batch, not in one of its own.
    """

    kind: Literal["pgmem", "redis"]
    url: str
    durability: Literal["strict", "relaxed"] = "strict"
    prefix: str = ""
    together: bool = True


class Batch(NamedTuple):
    """What a member was handed at once, and until when it had it.

    Attributes:
        numbers: of the events, in the order in which it got them.
        asked, at, ended: moments: of the call that brought it, when that was back, and when its
            end was acknowledged; None: it never was.
    """

    numbers: list[int]
    asked: float
    at: float
    ended: float | None


class Share(NamedTuple):
    """What a member did in a round.

    Attributes:
        batches: in their order.
        refused: how many deliveries the store did not let it end.
        received: when each event was in its hands, where they come at a rate.
    """

    batches: list[Batch]
    refused: int = 0
    received: Received | None = None

    @property
    def numbers(self) -> list[int]:
        """The events that it got, in its order."""
        return [number for batch in self.batches for number in batch.numbers]


def audit(expected: Sequence[int], shares: Sequence[Share], left: int) -> Faults:
    """What became of a round's events; they are numbered in the order of the log.

    Args:
        expected: their numbers.
        shares: what each member did.
        left: how many events the store says are not ended.
    """
    handed = Counter(number for share in shares for number in share.numbers)
    ended = {
        number
        for share in shares
        for batch in share.batches
        if batch.ended is not None
        for number in batch.numbers
    }
    return Faults(
        # What the store holds for open comes again, whatever a member was told.
        lost=max(left, sum(number not in ended for number in expected)),
        duplicated=handed.total() - sum(number in handed for number in expected),
        reordered=sum(b < a for share in shares for a, b in pairwise(share.numbers)),
        torn=sum(share.refused for share in shares),
    )


def at_once(shares: Sequence[Share]) -> int:
    """How many events two members had at the same time."""
    holders: dict[int, list[tuple[float, float]]] = {}
    for share in shares:
        for batch in share.batches:
            held = batch.at, float("inf") if batch.ended is None else batch.ended
            for number in batch.numbers:
                holders.setdefault(number, []).append(held)
    return sum(
        any(second[0] < first[1] for first, second in pairwise(sorted(held)))
        for held in holders.values()
    )


# Members


class Member(Protocol):
    """Takes part in a group.

    Attributes:
        refused: how many deliveries it was not allowed to end so far.
    """

    refused: int

    def turn(self, count: int, timeout: float) -> list[Payload]:
        """End what was taken before, and take up to `count` more.

        Args:
            count: of the next batch.
            timeout: seconds to wait if there is nothing; 0 does not wait.
        """


class PgmemMember:
    """`group.read(ack=…)`, or `group.ack` first."""

    def __init__(self, memory: Memory, end: End, label: str, consumer: str) -> None:
        name = f"{end.prefix}{label}"
        self._group = memory.groups.open(name, stream=name)
        self._read = functools.partial(self._group.read, consumer, lease=LEASE)
        self._together = end.together
        self._held: list[Delivery] = []
        self.refused = 0  # LeaseLost would end the round

    def turn(self, count: int, timeout: float) -> list[Payload]:
        """See `Member`."""
        if self._held and not self._together:
            self._group.ack(self._held)
            self._held = []
        self._held = self._read(count=count, timeout=timeout, ack=self._held)
        return [delivery.event.payload for delivery in self._held]


class RedisMember:
    """XACK and XREADGROUP, in one pipeline or one after the other."""

    def __init__(self, memory: Right, end: End, label: str, consumer: str) -> None:
        self._memory = memory
        self._name = f"{end.prefix}{label}"
        self._consumer = consumer
        self._together = end.together
        self._held: list[bytes] = []
        self.refused = 0
        memory.create_group(self._name, stream=self._name)

    def turn(self, count: int, timeout: float) -> list[Payload]:
        """See `Member`."""
        name, consumer, held = self._name, self._consumer, self._held
        wait, ended = timeout or None, len(held)
        if held and self._together:
            ended, events = self._memory.exchange(
                name, consumer, held, count, timeout=wait, stream=name
            )
        else:
            if held:
                ended = self._memory.ack(name, held, stream=name)
            events = self._memory.receive(name, consumer, count, timeout=wait, stream=name)
        self.refused += len(held) - ended
        self._held = [event.id for event in events]
        return [event.payload for event in events]


def drain(member: Member, count: int) -> list[Batch]:
    """Take and end batches until all of them are handed out."""
    done: list[Batch] = []
    clock = time.monotonic
    held: Batch | None = None
    while True:
        asked = clock()
        # Who has something to end does not wait for more: that would be in its time.
        payloads = member.turn(count, 0.0 if held else IDLE)
        now = clock()
        if held is None and not payloads:
            return done
        if held is not None:
            done.append(held._replace(ended=now))
        held = Batch([event["n"] for event in payloads], asked, now, None) if payloads else None


def serve(member: Member, count: int, over: Flag) -> tuple[list[Batch], Received]:
    """Take and end what comes, until the one writer's last event is in somebody's hands."""
    done: list[Batch] = []
    tray = Tray(1)
    clock = time.monotonic
    held: Batch | None = None
    patience = clock() + PATIENCE
    while held is not None or not over.is_set():
        asked = clock()
        payloads = member.turn(count, 0.0 if over.is_set() else POLL)
        now = clock()
        if held is not None:
            done.append(held._replace(ended=now))
        held = Batch([event["n"] for event in payloads], asked, now, None) if payloads else None
        for event in payloads:
            if tray.put(event["n"], event):
                over.set()
        if now > patience:
            over.set()
    return done, tray.received()


class Worker:
    """One member's process.

    Orders are "drain/WAY/LABEL" and "serve/WAY/LABEL", the argument being the size of a batch.

    Args:
        ends: where each way's groups are.
        over: is set when somebody has the last event.
        number, url: as a `WorkFactory` has them.
    """

    def __init__(self, ends: Mapping[str, End], over: Flag, number: int, url: str) -> None:
        self._ends = ends
        self._over = over
        self._consumer = f"member-{number}"
        self._stack = contextlib.ExitStack()
        self._links = Links(self._stack)
        self._members: dict[tuple[str, str], Member] = {}

    def go(self, order: str, start: float, argument: float) -> Share:
        """Take part in a group."""
        what, way, label = order.split("/")
        if (way, label) not in self._members:
            self._members[way, label] = self._links.member(self._ends[way], label, self._consumer)
        member = self._members[way, label]
        refused = member.refused
        until(start)
        if what == "drain":
            return Share(drain(member, int(argument)), member.refused - refused)
        batches, received = serve(member, int(argument), self._over)
        return Share(batches, member.refused - refused, received)

    def close(self) -> None:
        """Close all connections."""
        self._stack.close()


class Links:
    """The connections of a process, opened when a way first needs them; closed with the stack."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._memories: dict[tuple[str, str], Memory] = {}
        self._clients: dict[str, Any] = {}

    def memory(self, end: End) -> Memory:
        """The Memory of a way of pgmem."""
        key = end.url, end.durability
        if key not in self._memories:
            memory = Memory(end.url, pool=1, durability=end.durability)
            self._memories[key] = self._stack.enter_context(memory)
        return self._memories[key]

    def client(self, end: End) -> Any:
        """The client of a way of Redis."""
        if end.url not in self._clients:
            client = contextlib.closing(right.connect(end.url))
            self._clients[end.url] = self._stack.enter_context(client)
        return self._clients[end.url]

    def member(self, end: End, label: str, consumer: str) -> Member:
        """A member of one of a way's groups, which is made if it is not there."""
        if end.kind == "pgmem":
            return PgmemMember(self.memory(end), end, label, consumer)
        return RedisMember(Right(self.client(end)), end, label, consumer)

    def store(self, end: End) -> Store:
        """The other side of its groups."""
        if end.kind == "pgmem":
            return PgmemStore(self.memory(end), end)
        return RedisStore(Right(self.client(end)), end)


# What the parent does


class Store(Protocol):
    """Where events are appended for a group, and where it can be asked what is left."""

    def append(self, label: str, numbers: Sequence[int]) -> None:
        """Append events with these numbers."""

    def left(self, label: str) -> int:
        """How many of the group's events are not ended."""


class PgmemStore:
    """The log, and what a group tells of itself."""

    def __init__(self, memory: Memory, end: End) -> None:
        self._memory = memory
        self._prefix = end.prefix

    def append(self, label: str, numbers: Sequence[int]) -> None:
        """See `Store`."""
        for chunk in chunks(numbers):
            events = [Event(type=TYPE, payload=payload(n), agent_id=AGENT) for n in chunk]
            self._memory.events.append(f"{self._prefix}{label}", events)

    def left(self, label: str) -> int:
        """See `Store`."""
        name = f"{self._prefix}{label}"
        group = self._memory.groups.open(name, stream=name)
        info = group.info()
        return info.held + info.parked + info.dead_letters + group.lag()


class RedisStore:
    """The stream, and what it tells of its group."""

    def __init__(self, memory: Right, end: End) -> None:
        self._memory = memory
        self._prefix = end.prefix

    def append(self, label: str, numbers: Sequence[int]) -> None:
        """See `Store`."""
        for chunk in chunks(numbers):
            events = [records.Event(TYPE, payload(n), AGENT) for n in chunk]
            self._memory.append(events, stream=f"{self._prefix}{label}", transaction=True)

    def left(self, label: str) -> int:
        """See `Store`."""
        name = f"{self._prefix}{label}"
        return self._memory.left(name, stream=name)


def chunks(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Some numbers, as many at a time as one call takes."""
    for first in range(0, len(numbers), CHUNK):
        yield numbers[first : first + CHUNK]
