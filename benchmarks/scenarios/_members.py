"""Run the members of consumer groups, and audit what became of the events.

A member is a process with a connection of its own to each way's store; 16 members are 16 processes.
It takes a batch, holds it, and acknowledges it in the round trip that takes the next one, or in one
of its own if the way is about that. It holds one batch at a time. It notes when it asked for the
batch, when it received it and when its acknowledgement returned. From the notes of all members
`audit` counts what was lost, delivered twice or out of order.

No process is killed here and no lease expires, so an event that is delivered twice is wrong.
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
from benchmarks.scenarios._following import ROUND_TIMEOUT, Received, Tray
from pgmem import Delivery, Event, Memory

LEASE = 30.0
"""Seconds of pgmem's leases; Redis has none. No round takes as long."""
IDLE = 0.5
"""Seconds that a member without a delivery waits before it takes all events for delivered."""
POLL = 0.2
"""Seconds between two checks for the end of a round in which events come at a rate."""
CHUNK = 1_000
"""Events that are appended in one call."""

Payload = dict[str, Any]


class End(NamedTuple):
    """Hold where a way's groups are, and how its members acknowledge.

    Attributes:
        kind: the kind of store.
        url: the address of the store.
        durability: of a Memory.
        prefix: of the names of its streams and groups.
        together: acknowledge in the round trip that takes the next batch, not in one of its own.
    """

    kind: Literal["pgmem", "redis"]
    url: str
    durability: Literal["strict", "relaxed"] = "strict"
    prefix: str = ""
    together: bool = True


class Batch(NamedTuple):
    """Hold a batch that a member received.

    Attributes:
        numbers: of the events, in the order of the delivery.
        asked, at, ended: the moments of the call, of its return, and of the acknowledgement;
            None: there was none.
    """

    numbers: list[int]
    asked: float
    at: float
    ended: float | None


class Share(NamedTuple):
    """Hold what a member did in a round.

    Attributes:
        batches: in their order.
        refused: the number of deliveries that the store did not let it acknowledge.
        received: when each event arrived, if they come at a rate.
    """

    batches: list[Batch]
    refused: int = 0
    received: Received | None = None

    @property
    def numbers(self) -> list[int]:
        """The events that it received, in its order."""
        return [number for batch in self.batches for number in batch.numbers]


def audit(expected: Sequence[int], shares: Sequence[Share], left: int) -> Faults:
    """Count the faults of a round; its events are numbered in the order of the log.

    Args:
        expected: their numbers.
        shares: what each member did.
        left: the number of events that the store holds as not acknowledged.
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
        # The store will deliver these again, even if a member got an acknowledgement.
        lost=max(left, sum(number not in ended for number in expected)),
        duplicated=handed.total() - sum(number in handed for number in expected),
        reordered=sum(b < a for share in shares for a, b in pairwise(share.numbers)),
        torn=sum(share.refused for share in shares),
    )


def at_once(shares: Sequence[Share]) -> int:
    """Return how many events two members had at the same time."""
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
    """Define a member of a group.

    Attributes:
        refused: the number of deliveries that it was not allowed to acknowledge so far.
    """

    refused: int

    def turn(self, count: int, timeout: float) -> list[Payload]:
        """Acknowledge the last batch, and take up to `count` more events.

        Args:
            count: the size of the next batch.
            timeout: seconds to wait if there are none; 0 does not wait.
        """


class PgmemMember:
    """Use `group.read(ack=…)`, or `group.ack` first."""

    def __init__(self, memory: Memory, end: End, label: str, consumer: str) -> None:
        name = f"{end.prefix}{label}"
        self._group = memory.groups.create(name, stream=name, exist_ok=True)
        self._read = functools.partial(self._group.read, consumer, lease=LEASE)
        self._together = end.together
        self._held: list[Delivery] = []
        self.refused = 0  # LeaseLost would end the round

    def turn(self, count: int, timeout: float) -> list[Payload]:
        """Acknowledge and take; see `Member`."""
        if self._held and not self._together:
            self._group.ack(self._held)
            self._held = []
        self._held = self._read(limit=count, timeout=timeout, ack=self._held)
        return [delivery.event.payload for delivery in self._held]


class RedisMember:
    """Use XACK and XREADGROUP, in one pipeline or one after the other."""

    def __init__(self, memory: Right, end: End, label: str, consumer: str) -> None:
        self._memory = memory
        self._name = f"{end.prefix}{label}"
        self._consumer = consumer
        self._together = end.together
        self._held: list[bytes] = []
        self.refused = 0
        memory.create_group(self._name, stream=self._name)

    def turn(self, count: int, timeout: float) -> list[Payload]:
        """Acknowledge and take; see `Member`."""
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
    """Take and acknowledge batches until all events are delivered."""
    done: list[Batch] = []
    clock = time.monotonic
    held: Batch | None = None
    while True:
        asked = clock()
        # A member with a batch to acknowledge does not wait for more: the wait would count as its
        # time.
        payloads = member.turn(count, 0.0 if held else IDLE)
        now = clock()
        if held is None and not payloads:
            return done
        if held is not None:
            done.append(held._replace(ended=now))
        held = Batch([event["n"] for event in payloads], asked, now, None) if payloads else None


def serve(member: Member, count: int, over: Flag) -> tuple[list[Batch], Received]:
    """Take and acknowledge events until a member has the writer's last one."""
    done: list[Batch] = []
    tray = Tray(1)
    clock = time.monotonic
    held: Batch | None = None
    deadline = clock() + ROUND_TIMEOUT
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
        if now > deadline:
            over.set()
    return done, tray.received()


class Worker:
    """Run one member's process.

    Orders are "drain/WAY/LABEL" and "serve/WAY/LABEL"; the argument is the size of a batch.

    Args:
        ends: where each way's groups are.
        over: set when a member has the last event.
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
    """Open the connections of a process on first use; close them with the stack."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._memories: dict[tuple[str, str], Memory] = {}
        self._clients: dict[str, Any] = {}

    def memory(self, end: End) -> Memory:
        """Return the Memory of a way of pgmem."""
        key = end.url, end.durability
        if key not in self._memories:
            memory = Memory(end.url, pool=1, durability=end.durability)
            self._memories[key] = self._stack.enter_context(memory)
        return self._memories[key]

    def client(self, end: End) -> Any:
        """Return the client of a way of Redis."""
        if end.url not in self._clients:
            client = contextlib.closing(right.connect(end.url))
            self._clients[end.url] = self._stack.enter_context(client)
        return self._clients[end.url]

    def member(self, end: End, label: str, consumer: str) -> Member:
        """Return a member of one of a way's groups; create the group if it does not exist."""
        if end.kind == "pgmem":
            return PgmemMember(self.memory(end), end, label, consumer)
        return RedisMember(Right(self.client(end)), end, label, consumer)

    def store(self, end: End) -> Store:
        """Return the store that the parent uses for a way's groups."""
        if end.kind == "pgmem":
            return PgmemStore(self.memory(end), end)
        return RedisStore(Right(self.client(end)), end)


# Used by the parent


class Store(Protocol):
    """Append events for a group, and count what is left."""

    def append(self, label: str, numbers: Sequence[int]) -> None:
        """Append events with these numbers."""

    def left(self, label: str) -> int:
        """Return how many of the group's events are not acknowledged."""


class PgmemStore:
    """Use the log and the group's counts."""

    def __init__(self, memory: Memory, end: End) -> None:
        self._memory = memory
        self._prefix = end.prefix

    def append(self, label: str, numbers: Sequence[int]) -> None:
        """Append events; see `Store`."""
        for chunk in chunks(numbers):
            events = [Event(type=TYPE, payload=payload(n), agent_id=AGENT) for n in chunk]
            self._memory.events.append(f"{self._prefix}{label}", events)

    def left(self, label: str) -> int:
        """Count what is left; see `Store`."""
        name = f"{self._prefix}{label}"
        group = self._memory.groups.create(name, stream=name, exist_ok=True)
        info = group.info()
        return info.held + info.delayed + info.dead_letters + group.lag()


class RedisStore:
    """Use the stream and the group's counts."""

    def __init__(self, memory: Right, end: End) -> None:
        self._memory = memory
        self._prefix = end.prefix

    def append(self, label: str, numbers: Sequence[int]) -> None:
        """Append events; see `Store`."""
        for chunk in chunks(numbers):
            events = [records.Event(TYPE, payload(n), AGENT) for n in chunk]
            self._memory.append(events, stream=f"{self._prefix}{label}", transaction=True)

    def left(self, label: str) -> int:
        """Count what is left; see `Store`."""
        name = f"{self._prefix}{label}"
        return self._memory.left(name, stream=name)


def chunks(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Divide numbers into pieces of one call each."""
    for first in range(0, len(numbers), CHUNK):
        yield numbers[first : first + CHUNK]
