"""Prove the order: many writers, killed sessions, a few subscribers, a comparison at the end.

::

    8 processes × 8 threads ──► log ──► 4 processes with a subscription ──► a file each
         ▲        ▲                               ▲                            │
         └ kill -9 └ pg_terminate_backend ────────┘ (one: kill -9, resumed)    ▼
                                                        compared with the table: missed, twice,
                                                        out of order, never committed

Every payload is a number, so what arrived can be compared with what was stored: position and
payload. Whatever is rolled back has the payload NEVER.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
import sys
import threading
import time
from collections import Counter
from contextlib import aclosing, closing, suppress
from itertools import pairwise
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from pgmem import AsyncMemory, Event, Memory
from pgmem.errors import PgmemError, Unavailable, VersionConflict
from tests.support.processes import Worker

NEVER, END = -1, 0
PROCESSES, THREADS = 8, 8
STREAMS = [f"s{n}" for n in range(4)]
STALL = 60.0
"""Seconds without an event after which a subscriber gives up: the log is never silent so long."""

_RECORD = struct.Struct("<qq")

# What the subscribers want, and the event that ends each of them.
SELECTIONS = [
    {},
    {"stream": ["s1", "v0"]},
    {},
    {"prefix": "s", "type": "b"},
]


def wants(selection, stream, type_):
    """Return True if an event belongs to the selection."""
    return (
        ("stream" not in selection or stream in selection["stream"])
        and stream.startswith(selection.get("prefix", ""))
        and type_ == selection.get("type", type_)
    )


# Writers


class Undo(Exception):
    """Rolls a transaction back."""


def pause(rng):
    """Mostly very short, now and then long enough for hundreds of others to overtake."""
    kind = rng.random()
    if kind > 0.5:
        time.sleep(rng.random() * (0.002 if kind < 0.97 else 0.02 if kind < 0.998 else 0.3))


def write(memory, rng, number):
    """Commit at most once; return True if it did."""

    def event(payload=number):
        return Event(type=rng.choice("ab"), payload=payload)

    stream, kind = rng.choice(STREAMS), rng.random()
    if kind < 0.4:
        memory.events.append(stream, event())
    elif kind < 0.47:
        memory.events.append(stream, [event() for _ in range(rng.randrange(1, 6))])
    elif kind < 0.54:
        batch = [event()]
        for _ in range(rng.randrange(1, 3)):
            memory.events.append(stream, batch, idempotency_key=f"{number}", ttl=3600)
    elif kind < 0.58:
        stream = f"v{rng.randrange(4)}"
        memory.events.append(stream, event(), expected_version=memory.events.version(stream))
    elif kind < 0.65:
        memory.state.put(f"k{rng.randrange(50)}", number)
    else:
        with memory.transaction() as tx:
            tx.events.append(stream, event())
            if rng.random() < 0.2:
                with suppress(Undo), tx.connection.transaction():
                    tx.events.append(stream, [event(NEVER)] * rng.randrange(1, 4))
                    raise Undo
            pause(rng)
            if rng.random() < 0.3:
                tx.events.append(rng.choice(STREAMS), event())
            if rng.random() < 0.1:
                tx.events.append(stream, [event()], idempotency_key=f"tx{number}")
            if kind > 0.92:
                raise Undo
            pause(rng)
    return True


def writer(url, seed, index, threads, count):
    """Commit a number of times; print the count so far."""
    done, faults = [0] * threads, Counter()

    def work(thread):
        rng = random.Random(f"{seed}:{index}:{thread}")
        number = (index * threads + thread + 1) * 10**8
        while sum(done) < count:
            number += 1
            try:
                done[thread] += write(memory, rng, number)
            except Undo:
                faults["rolled back"] += 1
            except VersionConflict:
                faults["conflict"] += 1
            except (PgmemError, psycopg.Error) as error:
                faults[type(error).__name__] += 1

    url = make_conninfo(url, application_name="writer")
    with opened(Memory(url, pool=(0, threads))) as memory:
        say("ready")
        sys.stdin.readline()
        workers = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(threads)]
        for each in workers:
            each.start()
        for each in workers:
            while each.is_alive():
                each.join(0.1)
                say({"done": sum(done), "faults": faults})
    say({"done": sum(done), "faults": faults})


def say(word):
    print(json.dumps(word), flush=True)


def opened(memory):
    """Open it, even if its connection is ended meanwhile."""
    for _ in range(50):
        with suppress(Unavailable):
            return closing(memory.open())
    raise AssertionError("the memory could not be opened")


# Subscribers


def subscriber(url, form, selection, after, path):
    """Write the position and payload of each event to a file, up to the one that says END."""
    url = make_conninfo(url, application_name="subscriber")
    with open(path, "ab") as file:

        def keep(events):
            """Return True at the end."""
            for event in events:
                file.write(_RECORD.pack(event.position, event.payload))
                if event.payload == END:
                    return True
            file.flush()
            return False

        if form == "sync":
            with opened(Memory(url)) as memory:
                _follow(memory, selection, after, keep)
        else:
            asyncio.run(_afollow(url, selection, after, keep))


def _follow(memory, selection, after, keep):
    with memory.events.subscribe(after=after, **selection) as events:
        say({"start": events.position})
        ended = False
        while not ended:
            found = events.receive(random.choice((1, 10, 1000)), timeout=STALL)
            assert found, f"nothing came after {events.position} for {STALL} s"
            ended = keep(found)


class _Closed:
    """An object that `aclosing` accepts."""

    def __init__(self, memory):
        self.aclose = memory.close


async def _afollow(url, selection, after, keep):
    memory = AsyncMemory(url)
    for _ in range(50):
        with suppress(Unavailable):
            await memory.open()
            break
    async with (
        aclosing(_Closed(memory)),
        memory.events.subscribe(after=after, **selection) as events,
    ):
        say({"start": events.position})
        async for event in events:
            if keep([event]):
                return


WRITER = """
import sys
from tests.system.soak.ordering import writer
url, *numbers = sys.argv[1:]
writer(url, *map(int, numbers))
"""
SUBSCRIBER = """
import json, sys
from tests.system.soak.ordering import subscriber
url, form, selection, after, path = sys.argv[1:]
subscriber(url, form, json.loads(selection), json.loads(after), path)
"""


class Subscriber:
    """A subscriber in a process of its own, and what it has written."""

    def __init__(self, url, folder, number):
        self.url, self.number = url, number
        self.selection = SELECTIONS[number]
        self.form = ("sync", "async")[number % 2]
        self.path = Path(folder) / f"subscriber{number}"
        self.start = None
        self.worker = None
        self.resumed = 0

    def begin(self, after):
        self.worker = Worker(
            SUBSCRIBER, self.url, self.form, json.dumps(self.selection), json.dumps(after),
            self.path,
        )  # fmt: skip

    def started(self):
        """Know where it began, once it has."""
        if self.start is None and self.worker is not None and self.worker.lines:
            self.start = self.worker.lines[0]["start"]
        return self.start is not None

    @property
    def count(self):
        return self.path.stat().st_size // _RECORD.size if self.path.exists() else 0

    def resume(self):
        """Kill it, and go on behind the last event that it has kept."""
        self.worker.kill()
        self.worker.process.join()
        with open(self.path, "r+b") as file:
            file.truncate(self.count * _RECORD.size)
        found = self.found()
        self.resumed += 1
        self.begin(found[-1][0] if found else self.start)

    def found(self):
        return list(_RECORD.iter_unpack(self.path.read_bytes()))

    def verdict(self, log):
        """Count the faults of its events by kind."""
        found = self.found()
        wanted = [
            (position, payload)
            for position, stream, type_, payload in log
            if position > self.start and wants(self.selection, stream, type_)
        ]
        positions = [position for position, _ in found]
        wrong = {
            "missed": len(set(wanted) - set(found)),
            "not in the log": len(set(found) - set(wanted)),
            "twice": len(found) - len(set(positions)),
            "out of order": sum(a >= b for a, b in pairwise(positions)),
            "never committed": sum(payload == NEVER for _, payload in found),
        }
        assert any(wrong.values()) == (found != wanted)
        return {name: count for name, count in wrong.items() if count}


# The proof


class Proof:
    """A run of the proof.

    Args:
        url: an empty, migrated database.
        commits: the number of commits.
        seed: of all random choices; the interleaving of processes is not one.
        folder: for the subscribers' files.
        chaos: seconds between two acts of violence, about.
        tell: gets lines of text.
    """

    def __init__(self, url, commits, seed, folder, *, chaos, tell=print):
        self.url, self.commits, self.seed = url, commits, seed
        self.rng = random.Random(seed)
        self.chaos, self.tell = chaos, tell
        self.subscribers = [Subscriber(url, folder, n) for n in range(len(SELECTIONS))]
        self.counts = Counter()
        self.writers = []
        self.gone = 0  # commits of processes that were killed
        self.next_index = PROCESSES

    def run(self):
        """Give what went wrong, for each subscriber."""
        share = -(-self.commits // PROCESSES)
        self.writers = [
            (Worker(WRITER, self.url, self.seed, n, THREADS, share), share)
            for n in range(PROCESSES)
        ]
        self.subscribers[0].begin(0)
        while not (self.subscribers[0].started() and all(w.lines for w, _ in self.writers)):
            self._check_alive()
            time.sleep(0.01)
        began = time.monotonic()
        for worker, _ in self.writers:
            worker.say()
        with psycopg.connect(self.url, autocommit=True) as connection:
            self._disturb(connection, began)
        took = time.monotonic() - began
        self.tell(f"{self.done} commits in {took:.1f} s: {self.done / took:.0f} per second")
        return self._compare()

    @property
    def done(self):
        return self.gone + sum(self._done(worker) for worker, _ in self.writers)

    @staticmethod
    def _done(worker):
        return worker.lines[-1]["done"] if len(worker.lines) > 1 else 0

    def _check_alive(self):
        for worker in [w for w, _ in self.writers] + [s.worker for s in self.subscribers]:
            if worker is not None and not worker.running():
                worker.finish(5)

    def _disturb(self, connection, began):
        """Start subscribers, end backends and processes, until all is written."""
        rng = self.rng
        begin_at = {n: rng.uniform(0, 0.6) for n in range(1, len(self.subscribers))}
        resume_at = rng.uniform(0.2, 0.8)
        next_act = next_word = began
        while any(worker.running() for worker, _ in self.writers):
            time.sleep(0.02)
            self._check_alive()
            now, share = time.monotonic(), self.done / self.commits
            for n, at in list(begin_at.items()):
                if share >= at:
                    del begin_at[n]
                    self.subscribers[n].begin(self._somewhere(connection))
            if share >= resume_at and not self.subscribers[0].resumed:
                self.subscribers[0].resume()
                self.counts["subscribers killed"] += 1
            if now >= next_act:
                next_act = now + rng.expovariate(1 / self.chaos)
                self._act(connection)
            if now >= next_word:
                next_word = now + 10
                got = ", ".join(str(each.count) for each in self.subscribers)
                self.tell(f"{now - began:.0f} s: {self.done} commits; received: {got}")
        for n in begin_at:
            self.subscribers[n].begin(self._somewhere(connection))
        for each in self.subscribers:
            while not each.started():
                self._check_alive()
                time.sleep(0.01)

    def _somewhere(self, connection):
        """Choose where a subscriber begins."""
        (head,) = connection.execute("SELECT max(position) FROM pgmem.events").fetchone()
        return self.rng.choice([0, "now", self.rng.randrange(head or 1)])

    def _act(self, connection):
        """End a backend or a process."""
        kind = self.rng.random()
        if kind < 0.9:
            name = "writer" if kind < 0.75 else "subscriber"
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = %s"
                " ORDER BY random() LIMIT 1",
                [name],
            ).fetchall()
            self.counts[f"{name} backends ended"] += len(ended)
            return
        at = self.rng.randrange(len(self.writers))
        worker, share = self.writers[at]
        left = share - self._done(worker)
        if left > 0 and worker.running():
            worker.kill()
            worker.process.join()
            self.counts["writers killed"] += 1
            self.gone += self._done(worker)
            left = share - self._done(worker)
            new = Worker(WRITER, self.url, self.seed, self.next_index, THREADS, max(1, left))
            self.next_index += 1
            new.say()
            self.writers[at] = (new, max(1, left))

    def _compare(self):
        with Memory(self.url) as memory:
            for each in self.subscribers:
                stream = each.selection.get("stream", ["s0"])[0]
                memory.events.append(stream, Event(type="b", payload=END))
        ends = [each.worker for each in self.subscribers]
        for worker in ends:
            worker.finish(STALL * 2)
        with psycopg.connect(self.url) as connection:
            log = connection.execute(
                "SELECT position, stream, type, payload::text::bigint FROM pgmem.events"
                " ORDER BY position"
            ).fetchall()
        for worker, _ in self.writers:
            self.counts.update(worker.finish(5)[-1]["faults"])
        gaps = log[-1][0] - len(log)
        self.tell(f"{len(log)} events, {gaps} positions never used; {dict(self.counts)}")
        assert not any(payload == NEVER for *_, payload in log)
        faults = {}
        for each in self.subscribers:
            # Each ends with the first END that it wants.
            end = next(
                position
                for position, stream, type_, payload in log
                if payload == END and wants(each.selection, stream, type_)
            )
            wrong = each.verdict([row for row in log if row[0] <= end])
            self.tell(
                f"subscriber {each.number} ({each.form}, {each.selection or 'all'}, from "
                f"{each.start}, resumed {each.resumed} times): {each.count} events, "
                f"{wrong or 'nothing wrong'}"
            )
            if wrong:
                faults[each.number] = wrong
        return faults
