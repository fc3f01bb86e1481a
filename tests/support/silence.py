"""Call the verbs of a memory after its server has gone silent."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from concurrent.futures import ThreadPoolExecutor

from pgmem import Append, AsyncMemory, Event, Fold, Memory
from pgmem.errors import PgmemError
from tests.support.relay import Relay

TIMEOUT = 1.0
NEVER = 30.0
"""Seconds after which a call counts as one that never ends."""
TOGETHER = 12

EVENT = Event(type="t")
COUNT = Fold("count", initial=lambda: 0, apply=lambda total, _: total + 1)

VERBS = {
    "events.append": lambda m, _: m.events.append("s", EVENT),
    "events.append_all": lambda m, _: m.events.append_all([Append("s", EVENT)]),
    "events.count": lambda m, _: m.events.count("s"),
    "events.get": lambda m, _: m.events.get(1),
    "events.head": lambda m, _: m.events.head("s"),
    "events.read": lambda m, _: m.events.read("s"),
    "events.read_stream": lambda m, _: m.events.read_stream("s"),
    "events.trace": lambda m, _: m.events.trace(1),
    "events.version": lambda m, _: m.events.version("s"),
    "events.wait_until_stable": lambda m, _: m.events.wait_until_stable(),
    "state.blame": lambda m, _: m.state.blame("k"),
    "state.compare_and_set": lambda m, _: m.state.compare_and_set("k", 2, expected_version=1),
    "state.create": lambda m, _: m.state.create("new", 1),
    "state.delete": lambda m, _: m.state.delete("k"),
    "state.get": lambda m, _: m.state.get("k"),
    "state.get_many": lambda m, _: m.state.get_many(["k"]),
    "state.history": lambda m, _: m.state.history("k"),
    "state.increment": lambda m, _: m.state.increment("n"),
    "state.keys": lambda m, _: m.state.keys(),
    "state.list": lambda m, _: m.state.list(),
    "state.put": lambda m, _: m.state.put("k", 2),
    "state.put_many": lambda m, _: m.state.put_many({"k": 2}),
    "state.search": lambda m, _: m.state.search(),
    "state.touch": lambda m, _: m.state.touch("k", ttl=5),
    "state.update": lambda m, _: m.state.update("k", lambda value: value),
    "snapshots.take": lambda m, _: m.state.snapshots.take(),
    "snapshots.entries": lambda m, made: first_of(m.state.snapshots.entries(made.snapshot)),
    "snapshots.get": lambda m, made: m.state.snapshots.get(made.snapshot),
    "snapshots.list": lambda m, _: m.state.snapshots.list(),
    "snapshots.delete": lambda m, made: m.state.snapshots.delete(made.snapshot),
    "snapshots.restore": lambda m, made: m.state.snapshots.restore(made.snapshot),
    "dedupe.claim": lambda m, _: m.dedupe.claim("new"),
    "dedupe.complete": lambda m, made: m.dedupe.complete(made.claim, 1),
    "dedupe.release": lambda m, made: m.dedupe.release(made.claim),
    "dedupe.run_once": lambda m, _: m.dedupe.run_once("new", lambda: 1),
    "groups.create": lambda m, _: m.groups.create("new", stream="s"),
    "groups.delete": lambda m, _: m.groups.delete("g"),
    "groups.get": lambda m, _: m.groups.get("g"),
    "groups.list": lambda m, _: m.groups.list(),
    "group.ack": lambda _, made: made.group.ack([made.delivery]),
    "group.alter": lambda _, made: made.group.alter(max_attempts=3),
    "group.dead_letter": lambda _, made: made.group.dead_letter([made.delivery]),
    "group.dead_letters": lambda _, made: made.group.dead_letters(),
    "group.extend": lambda _, made: made.group.extend([made.delivery]),
    "group.info": lambda _, made: made.group.info(),
    "group.lag": lambda _, made: made.group.lag(),
    "group.nack": lambda _, made: made.group.nack([made.delivery]),
    "group.pending": lambda _, made: made.group.pending(),
    "group.read": lambda _, made: made.group.read("m2"),
    "group.requeue": lambda _, made: made.group.requeue(),
    "group.reset": lambda _, made: made.group.reset(1),
    "delivery.ack": lambda _, made: made.delivery.ack(),
    "delivery.dead_letter": lambda _, made: made.delivery.dead_letter(),
    "delivery.extend": lambda _, made: made.delivery.extend(),
    "delivery.nack": lambda _, made: made.delivery.nack(),
    "leases.acquire": lambda m, _: m.leases.acquire("new", timeout=1),
    "leases.get": lambda m, _: m.leases.get("lease"),
    "leases.hold": lambda m, _: enter(m.leases.hold("new", timeout=1)),
    "leases.list": lambda m, _: m.leases.list(),
    "leases.release": lambda m, made: m.leases.release("lease", token=made.lease.token),
    "lease.release": lambda _, made: made.lease.release(),
    "lease.renew": lambda _, made: made.lease.renew(),
    "limits.acquire": lambda m, _: m.limits.acquire("limit", 10, 1),
    "retention.list": lambda m, _: m.retention.list(),
    "retention.maintain": lambda m, _: m.retention.maintain(),
    "retention.remove": lambda m, _: m.retention.remove("s"),
    "retention.restore": lambda m, made: m.retention.restore(made.archive),
    "retention.set": lambda m, _: m.retention.set("s", max_events=5),
    "retention.set_folds": lambda m, _: m.retention.set_folds("f", max_count=5),
    "retention.set_snapshots": lambda m, _: m.retention.set_snapshots("f", max_count=5),
    "retention.trim": lambda m, _: m.retention.trim("s", max_events=5),
    "folds.delete": lambda m, _: m.folds.delete("count"),
    "folds.fold": lambda m, _: m.folds.fold(COUNT),
    "folds.load": lambda m, _: m.folds.load("count"),
    "folds.save": lambda m, _: m.folds.save("count", 1, position=1),
    "subscriptions.delete": lambda m, _: m.subscriptions.delete("d"),
    "subscriptions.get": lambda m, _: m.subscriptions.get("d"),
    "subscriptions.list": lambda m, _: m.subscriptions.list(),
    "subscriptions.reset": lambda m, _: m.subscriptions.reset("d"),
    "subscription.receive": lambda _, made: made.subscription.receive(timeout=1),
    "subscription.commit": lambda _, made: made.subscription.commit(made.received),
    "subscription.close": lambda _, made: made.subscription.close(),
    "memory.digest": lambda m, _: m.digest(0),
    "memory.stats": lambda m, _: m.stats(),
    "memory.transaction": lambda m, _: enter(m.transaction()),
    "memory.optimistic": lambda m, _: enter(m.optimistic(), lambda tx: tx.state.put("k", 2)),
    "memory.run_transaction": lambda m, _: m.run_transaction(lambda tx: tx.state.put("k", 2)),
    "memory.close": lambda m, _: m.close(),
}


def public(thing):
    return {name for name in dir(thing) if not name.startswith("_")}


def verbs_of(groups):
    """Return the names of the verbs of groups of verbs, given by name."""
    return {
        f"{name}.{verb}"
        for name, group in groups.items()
        for verb in public(group)
        if callable(getattr(group, verb)) and not inspect.isclass(getattr(group, verb))
    }


def enter(block, then=lambda entered: None):
    if hasattr(block, "__aenter__"):
        return _enter_async(block, then)
    with block as entered:
        return then(entered)


async def _enter_async(block, then):
    async with block as entered:
        return await awaited(then(entered))


def first_of(entries):
    return anext(entries) if hasattr(entries, "__anext__") else next(entries)


async def awaited(found):
    return await found if inspect.isawaitable(found) else found


class FallsSilent(Relay):
    """A relay that goes silent before it forwards the statement after the first `count`."""

    def __init__(self, url: str, count: int) -> None:
        self._most = count
        super().__init__(url)

    def _count(self, statements: int) -> None:
        super()._count(statements)
        if self.statements > self._most:
            self.silence(new=True)


class Made:
    """A memory of either form, and one of each thing that a verb needs."""

    def __init__(self, form, url, threads, relay=None) -> None:
        self.sync = form.name == "sync"
        self.relay = relay
        self._threads = threads
        kind = Memory if self.sync else AsyncMemory
        self.memory = kind(url, timeout=TIMEOUT, pool=(1, 2))

    async def call(self, function, *arguments):
        if not self.sync:
            return await awaited(function(*arguments))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)

    async def prepare(self, verb, folder) -> None:
        memory = self.memory
        await self.call(memory.open)
        await self.call(memory.state.put, "k", 1)
        await self.call(memory.events.append, "s", [EVENT, EVENT])
        part = verb.split(".")[0]
        if part in ("group", "delivery", "groups") or verb == "tx.ack":
            self.group = await self.call(lambda: memory.groups.create("g", stream="s"))
            (self.delivery,) = await self.call(self.group.read, "m", 1)
        if part in ("lease", "leases"):
            self.lease = await self.call(lambda: memory.leases.acquire("lease", timeout=0))
        if part == "dedupe":
            self.claim = await self.call(memory.dedupe.claim, "claimed")
        if part == "subscription" or verb == "tx.commit":
            self.subscription = memory.events.subscribe("s", durable="d")
            self.received, _ = await self.call(self.subscription.receive)
        if part == "snapshots":
            self.snapshot = (await self.call(memory.state.snapshots.take)).id
        if verb == "retention.restore":
            trim = memory.retention.trim
            await self.call(lambda: trim("s", max_events=1, export=folder))
            (self.archive,) = folder.iterdir()


async def ended(made, function):
    """Return how long a call took and what it gave or raised; fail if it never ends."""
    began = time.monotonic()
    call = asyncio.ensure_future(made.call(function))
    done, _ = await asyncio.wait([call], timeout=NEVER)
    if not done:
        return NEVER, None
    return time.monotonic() - began, call.exception() or call.result()


async def silenced(form, make_database, folder, verbs, where=None):
    """Call verbs after the server has gone silent. Return how each one ended.

    Args:
        form: of the memory.
        make_database: makes a database.
        folder: for archives.
        verbs: their names.
        where: calls them in a transaction, and lets the server go silent in it.
    """
    with ThreadPoolExecutor(2 * TOGETHER) as threads:
        made, relays = [], []
        try:
            for verb in verbs:
                relays.append(Relay(make_database(template=True)))
                made.append(Made(form, relays[-1].url, threads, relays[-1]))
                await made[-1].prepare(verb, folder)
            for relay in relays if where is None else ():
                relay.silence(new=True)

            def call(verb, one):
                return (
                    VERBS[verb](one.memory, one) if where is None else where(one.memory, one, verb)
                )

            calls = [
                ended(one, functools.partial(call, verb, one))
                for verb, one in zip(verbs, made, strict=True)
            ]
            found = dict(zip(verbs, await asyncio.gather(*calls), strict=True))
            closed = await asyncio.gather(*(ended(one, one.memory.close) for one in made))
        finally:
            for relay in relays:
                relay.close()
    return found, closed


def check(found, closed):
    """Fail if a verb never ended, or raised an error that is not pgmem's."""
    for verb, (seconds, outcome) in found.items():
        print(f"{verb}: {seconds:.1f} s, {type(outcome).__name__}")
    print("close:", ", ".join(f"{seconds:.1f}" for seconds, _ in closed))
    assert [verb for verb, (seconds, _) in found.items() if seconds == NEVER] == []
    assert [seconds for seconds, _ in closed if seconds == NEVER] == []
    for verb, (_, outcome) in found.items():
        if isinstance(outcome, Exception):
            assert isinstance(outcome, PgmemError), f"{verb}: {outcome!r}"
