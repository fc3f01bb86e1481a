"""Measure the payment pipeline of `pgmem demo`, end to end: payments a second, and faults.

Five processes in every arm have `WINDOW` payments under way: the gateway sends the next one when it
has seen that one is notified. Some requests are sent twice, under another request id for the same
payment, and all payments are between a few accounts. A payment is timed from the call that submits
it to the gateway's receipt of its notification.

No work is shared here (that is `groups`): the sender of a payment decides its processor, each part
is a stream of its own, and each has one durable subscription. Redis does the same, with a group for
each.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Event as Flag
from typing import Literal, NamedTuple

from benchmarks import meter
from benchmarks.arms import published, right
from benchmarks.arms.right import Right
from benchmarks.audit import Faults
from benchmarks.crew import Crew, crew, until
from benchmarks.figures import histogram, microseconds
from benchmarks.harness import Comparison, Sample, Scenario
from benchmarks.scenarios._agents import (
    PARTS,
    THREADS,
    Found,
    Memories,
    MemoryAgents,
    Message,
    Role,
    Urls,
    account,
)
from benchmarks.scenarios._agents_redis import PublishedAgents, RightAgents
from benchmarks.scenarios._base import NOTE, Bench, Entry, Side
from pgmem import Memory

AGENTS: tuple[tuple[Role, int], ...] = (
    ("gateway", 0),
    ("validator", 0),
    *(("processor", part) for part in range(PARTS)),
    ("notifier", 0),
)
"""The role of each crew member, and its part of the stream."""
COUNT, QUICK_COUNT = 400, 60
"""Payments of a round."""
WINDOW = 32
ACCOUNTS = 40
OPENING = 100_000_000
TWICE = 0.1
TIMEOUT = 5.0
"""Seconds without a notified payment after which the rest is lost."""
DRAIN = 0.1
"""Seconds to wait for surplus events: second effects of what was sent twice."""


_PGMEM = "a batch's balances, events and position in one optimistic(); durable subscriptions"
_RIGHT = "a Lua script for each step of a payment, a batch in one pipeline; consumer groups"
_PUBLISHED = "its six methods; balances by write_event: the versioned update works once"
SIDES = (
    Side("pgmem", "pgmem", "strict", _PGMEM),
    Side("redis always", "redis", "strict", _RIGHT),
    Side("pgmem relaxed", "pgmem", "relaxed", "the same"),
    Side("redis everysec", "redis", "relaxed", "the same"),
    Side("published always", "published", "strict", _PUBLISHED),
    Side("published everysec", "published", "relaxed", "the same"),
)


def sendings(run: str, count: int) -> list[Message]:
    """Return what the gateway sends: payments between random accounts, some of them twice.

    They are the same in each run, so that each arm has the same work.
    """
    rng = random.Random(count)  # noqa: S311  # no secret
    sent: list[Message] = []
    for number in range(count):
        sender, receiver = rng.sample(range(ACCOUNTS), 2)
        request = {
            "request_id": f"{number}",
            "payment_id": f"PAY-{number:06d}",
            "sender": account(run, sender),
            "receiver": account(run, receiver),
            "amount": rng.randrange(1_000, 50_000),
            "note": NOTE,
        }
        sent.append(request)
        if rng.random() < TWICE:
            sent.append({**request, "request_id": f"{number} again"})
    return sent


def memories(name: str, urls: Urls, stack: contextlib.ExitStack) -> Memories:
    """Return an arm's memory; it is closed with the stack."""
    kind, _, tier = name.partition(" ")
    if kind == "pgmem":
        durability: Literal["strict", "relaxed"] = "relaxed" if tier == "relaxed" else "strict"
        where = urls.relaxed if tier == "relaxed" else urls.postgres
        memory = Memory(where, pool=(1, THREADS + 2), durability=durability)
        return MemoryAgents(stack.enter_context(memory))
    url = urls.everysec if tier == "everysec" else urls.always
    if kind == "published":
        client = stack.enter_context(contextlib.closing(published.connect(url)))
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        return PublishedAgents(client, urls.prefix, pool)
    client = stack.enter_context(contextlib.closing(right.connect(url, threads=True)))
    return RightAgents(Right(client, prefix=urls.prefix, agent_id="processor"))


class Report(NamedTuple):
    """Hold what the gateway has seen.

    Attributes:
        seconds: from the first payment submitted to the last one notified.
        times: nanoseconds of each notified payment.
    """

    seconds: float
    times: list[int]


class Agent:
    """Run one process in the role of its number, with a connection to each arm's memory."""

    def __init__(self, urls: Urls, over: Flag, names: Sequence[str], number: int, url: str) -> None:
        assert url == urls.postgres
        self._role, self._part = AGENTS[number]
        self._over = over
        self._stack = contextlib.ExitStack()
        self._memories = {name: memories(name, urls, self._stack) for name in names}
        # The threads are kept, because the processor time of ended threads cannot be read. The
        # gateway submits in them.
        self._pool = self._stack.enter_context(ThreadPoolExecutor(THREADS))
        self._observer = self._stack.enter_context(ThreadPoolExecutor(1))

    def go(self, order: str, start: float, argument: float) -> Report | None:
        """Play the role until the gateway ends the round; the gateway returns the figures."""
        name, run = order.split("/")
        memory = self._memories[name]
        if self._role == "gateway":
            until(start)
            try:
                gateway = Gateway(memory, run, self._pool, self._observer)
                return gateway.send(sendings(run, int(argument)))
            finally:
                self._over.set()
        step = {
            "validator": memory.validate,
            "processor": memory.process,
            "notifier": memory.notify,
        }[self._role]
        with memory.inbox(run, self._role, self._part) as receive:
            while not self._over.is_set():
                if batch := receive():
                    step(run, batch)
        return None

    def close(self) -> None:
        """Close all connections."""
        self._stack.close()


class Gateway:
    """Send payments, and the next one for each that is notified."""

    def __init__(
        self, memory: Memories, run: str, pool: ThreadPoolExecutor, observer: ThreadPoolExecutor
    ) -> None:
        self._memory = memory
        self._run = run
        self._pool = pool
        self._observer = observer
        self._room = threading.Semaphore(WINDOW)
        self._submitted: dict[str, int] = {}
        self._notified: dict[str, int] = {}
        self._done = threading.Event()

    def send(self, requests: list[Message]) -> Report:
        """Send all requests; return when their payments are notified, or no more arrive.

        Raises:
            Exception: what a submission or the inbox raised.
        """
        wanted = len({request["payment_id"] for request in requests})
        observing = self._observer.submit(self._observe, wanted)
        submissions = []
        for request in requests:
            if request["payment_id"] not in self._submitted:
                self._room.acquire()
                if self._done.is_set():
                    break  # The observer has given up.
                self._submitted[request["payment_id"]] = time.monotonic_ns()
            submissions.append(self._pool.submit(self._memory.submit, self._run, request))
        for submission in submissions:
            submission.result()
        observing.result()
        time.sleep(DRAIN)
        times = [at - self._submitted[key] for key, at in self._notified.items()]
        first = min(self._submitted.values())
        return Report((max(self._notified.values(), default=first) - first) / 1e9, times)

    def _observe(self, wanted: int) -> None:
        try:
            with self._memory.inbox(self._run, "gateway", 0) as receive:
                deadline = time.monotonic() + TIMEOUT
                while len(self._notified) < wanted and time.monotonic() < deadline:
                    for message in receive():
                        if message["payment_id"] not in self._notified:
                            self._notified[message["payment_id"]] = time.monotonic_ns()
                            deadline = time.monotonic() + TIMEOUT
                            self._room.release()
        finally:
            self._done.set()
            self._room.release()


def audit(sent: Sequence[Message], opening: Mapping[str, int], found: Found) -> Faults:
    """Count the faults of a run's payments and accounts.

    Args:
        sent: what the gateway sent.
        opening: the opening balances of the accounts.
        found: what the store holds.
    """
    payments = {request["payment_id"]: request for request in sent}
    processed = Counter(outcome["payment_id"] for outcome in found.outcomes)
    notified = Counter(found.notified)
    expected = dict(opening)
    for outcome in found.outcomes:
        expected[outcome["sender"]] -= outcome["amount"]
        expected[outcome["receiver"]] += outcome["amount"]
    faults = Faults(
        # There is money enough for all of them: none is declined.
        lost=sum(not processed[key] for key in payments)
        + sum(not notified[key] for key in payments)
        + balances_off(expected, found),
        duplicated=sum(count - 1 for count in processed.values())
        + sum(count - 1 for count in notified.values()),
    )
    for kept in found.accounts.values():
        holes = kept.versions != list(range(1, kept.version + 1)) if kept.version else False
        faults += Faults(torn=int(kept.said != kept.balance) + int(holes))
    return faults


def balances_off(expected: Mapping[str, int], found: Found) -> int:
    """Return how many accounts do not hold what the outcomes say: an effect on them is lost."""
    return sum(
        key not in found.accounts or found.accounts[key].balance != balance
        for key, balance in expected.items()
    )


@contextlib.contextmanager
def pipeline(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run the pipeline on each memory."""
    always, everysec = bench.redis("strict"), bench.redis("relaxed")
    count = QUICK_COUNT if bench.quick else COUNT
    with contextlib.ExitStack() as stack:
        # A database each, because a notification wakes every listener of its database.
        url, relaxed = (stack.enter_context(bench.postgres.database()) for _ in range(2))
        urls = Urls(url, relaxed, always.url, everysec.url, f"{always.key('pipeline')}:")
        # From the crew's own context: its members can be given no other.
        over = multiprocessing.get_context("forkserver").Event()
        ours = {side.name: memories(side.name, urls, stack) for side in SIDES}
        agent = functools.partial(Agent, urls, over, [side.name for side in SIDES])
        agents = stack.enter_context(crew(agent, len(AGENTS), url))
        measure = Measure(bench, agents, over, ours, count)
        yield [
            Scenario(
                "pipeline",
                f"payments through gateway, validator, {PARTS} processors and notifier, "
                f"{WINDOW} under way ({count} a round, {TWICE:.0%} sent twice)",
                "payments/s",
                [side.arm(functools.partial(measure, side), bench.store(side)) for side in SIDES],
                [
                    Comparison("pgmem", "redis always", at_most=1 / 1.2),
                    Comparison("pgmem", "redis always", figure="p50"),
                    Comparison("pgmem", "redis always", figure="p99"),
                    Comparison("pgmem relaxed", "redis everysec", at_most=1 / 1.2),
                    Comparison("pgmem", "published always"),
                    Comparison("pgmem relaxed", "published everysec"),
                ],
                rounds=bench.counted(5, 2),
            )
        ]


class Measure:
    """Run a round of an arm."""

    def __init__(
        self, bench: Bench, agents: Crew, over: Flag, ours: Mapping[str, Memories], count: int
    ) -> None:
        self._bench = bench
        self._agents = agents
        self._over = over
        self._ours = ours
        self._count = count
        self._runs = itertools.count()

    def __call__(self, side: Side) -> Sample:
        """Run one round."""
        run = f"run-{next(self._runs)}"
        memory = self._ours[side.name]
        opening = {account(run, number): OPENING for number in range(ACCOUNTS)}
        memory.open(run, opening)
        self._over.clear()
        with meter.costs(self._bench.store(side)) as spent:
            report = self._agents.run(f"{side.name}/{run}", self._count)[0]
        found = memory.found(run, opening)
        faults = audit(sendings(run, self._count), opening, found)
        times = histogram(report.times)
        costs = spent.figures(self._count)
        del costs["per second"]  # It contains the wait at the end; the arm's own figure does not.
        figures = {
            "p50": microseconds(times, 50),
            "p99": microseconds(times, 99),
            "max": microseconds(times, 100),
            "money that appeared or vanished": float(
                abs(sum(kept.balance for kept in found.accounts.values()) - sum(opening.values()))
            ),
            **costs,
        }
        done = len(report.times)
        return Sample(done / max(report.seconds, 1e-3), faults, figures, times)


ENTRIES = (
    Entry(
        "pipeline",
        "the payment pipeline end to end, five processes, beside Redis",
        pipeline,
        (100, 15),
    ),
)
