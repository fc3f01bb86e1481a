"""Trims beside writers, subscriptions and a group: no reader skips silently."""

from __future__ import annotations

import itertools
import time

import psycopg
import pytest

from pgmem import Memory
from tests.support.options import size
from tests.support.processes import Worker, ready, seed

pytestmark = pytest.mark.sized

# Appends alone, in batches, in slow transactions and in such that roll back.
WRITER = """
import json, random, sys, time
from pgmem import Event, Memory
url, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng, done = random.Random(seed), []
with Memory(url, pool=1) as memory:
    print(json.dumps("ready"), flush=True); sys.stdin.readline()
    for n in range(count):
        stream, event, kind = f"s{rng.randrange(3)}", Event(type="t", payload=n), rng.random()
        if kind < 0.5:
            receipts = [memory.events.append(stream, event)]
        elif kind < 0.7:
            receipts = memory.events.append(stream, [event] * rng.randrange(1, 5))
        else:
            receipts = []
            try:
                with memory.transaction() as tx:
                    receipt = tx.events.append(stream, event)
                    time.sleep(rng.random() * 0.02)
                    if kind > 0.9:
                        raise ZeroDivisionError
                receipts = [receipt]
            except ZeroDivisionError:
                pass
        done += [(receipt.position, stream) for receipt in receipts]
print(json.dumps(done))
"""

# Follows from the beginning, some slowly; where it is told of a range, it goes on behind that.
READER = """
import json, random, sys, threading, time
from pgmem import Memory
from pgmem._sync.events import buffer as feed
from pgmem._sync.events import subscription
from pgmem.errors import PositionTrimmed
feed.KEPT_EVENTS, subscription.BATCH = 5, 20  # Little is kept in memory: the slow must read again.
url, seed, kind, slow = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
rng, stop, got, told, after = random.Random(seed), threading.Event(), [], [], 0
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
which = {"all": {}, "s1": {"stream": "s1"}, "two": {"stream": ["s0", "s2"]},
         "prefix": {"prefix": "s"}, "durable": {"durable": "c"}}.get(kind)

def take(events):
    global after
    quiet = 0
    while quiet < 5:
        found = events.receive(rng.randrange(1, 30), timeout=0.1)
        got.extend(event.position for event in found)
        after = events.position
        quiet = quiet + 1 if stop.is_set() and not found else 0
        if not stop.is_set():
            time.sleep(slow * rng.random())

with Memory(url, pool=(1, 2)) as memory:
    print(json.dumps("ready"), flush=True)
    while True:
        try:
            if told and kind == "durable":
                memory.subscriptions.reset("c", after)
            if kind == "group":
                group = memory.groups.get("g")
                if told:
                    group.reset(after)
                quiet = 0
                while quiet < 5:
                    batch = group.read("m", limit=rng.randrange(1, 30), timeout=0.1, lease=30)
                    got.extend(delivery.event.position for delivery in batch)
                    quiet = quiet + 1 if stop.is_set() and not batch else 0
                    if batch:
                        time.sleep(slow * rng.random())
                        group.ack(batch)
            elif kind == "read":
                quiet = 0
                while quiet < 5:
                    found = memory.events.read(after=after, limit=rng.randrange(1, 30), timeout=0.1)
                    got.extend(event.position for event in found)
                    after = found[-1].position if found else after
                    quiet = quiet + 1 if stop.is_set() and not found else 0
                    time.sleep(slow * rng.random())
            else:
                with memory.events.subscribe(after=after, **which) as events:
                    take(events)
            break
        except PositionTrimmed as error:
            told.append((error.position, error.trimmed_to))
            after = error.trimmed_to
print(json.dumps({"got": got, "told": told}))
"""

TRIMMER = """
import json, random, sys, threading, time
from pgmem import Memory
from pgmem.retention import ops as retention
url, seed, force = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
rng, stop, removed = random.Random(seed), threading.Event(), 0
retention.BATCH = 20
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
with Memory(url, pool=(1, 2)) as memory:
    print(json.dumps("ready"), flush=True)
    while not stop.is_set():
        stream = rng.choice((None, None, "s1"))
        keep = rng.randrange(1, 60)
        removed += memory.retention.trim(stream, max_events=keep, force=force).removed
        time.sleep(rng.random() * 0.02)
print(json.dumps(removed))
"""

WANTS = {"s1": {"s1"}, "two": {"s0", "s2"}}


def missed(kind, said, appended):
    """List the events that a reader neither got nor was told of."""
    wanted = WANTS.get(kind, {"s0", "s1", "s2"})
    got = set(said["got"])
    return [
        position
        for position, stream in appended
        if stream in wanted
        and position not in got
        and not any(low < position <= high for low, high in said["told"])
    ]


@pytest.mark.parametrize("force", [False, True])
def test_every_reader_gets_each_event_or_is_told_of_it(database_url, force):
    base = seed()
    stored = 0.2 if force else 0.005  # Behind, where that does not hold a trim up.
    kinds = [("all", 0), ("all", 0.2), ("s1", 0.3), ("two", 0.3), ("prefix", 0.2),
             ("read", 0.1), ("durable", stored), ("group", stored)]  # fmt: skip
    with Memory(database_url) as memory:  # Stored, before there is anything to be removed.
        memory.groups.create("g", after=0)
        memory.events.subscribe(durable="c").__enter__().close()
    readers = [
        Worker(READER, database_url, base + n, kind, slow) for n, (kind, slow) in enumerate(kinds)
    ]
    trimmers = [Worker(TRIMMER, database_url, base + 50 + n, force) for n in range(2)]
    writers = [Worker(WRITER, database_url, base + 90 + n, size(750, 250)) for n in range(4)]
    deadline = time.monotonic() + 60
    while not all(worker.lines for worker in [*readers, *trimmers]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ready(writers)
    appended = [tuple(row) for writer in writers for row in writer.finish(200)[-1]]
    time.sleep(0.3)
    for reader in readers:
        if not reader.running():
            reader.finish()  # It tells why.
        reader.say()
    said = [reader.finish(200)[-1] for reader in readers]
    for trimmer in trimmers:
        trimmer.say()
    removed = sum(trimmer.finish(60)[-1] for trimmer in trimmers)
    print(len(appended), "appended", removed, "removed", [len(one["told"]) for one in said])
    assert removed > len(appended) / 4, "too little was removed to show anything"
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT position FROM pgmem.events").fetchall()
        counted = connection.execute("SELECT sum(removed)::int FROM pgmem.trimmed").fetchone()
    kept = {position for (position,) in rows}
    assert counted == (removed,)
    assert kept <= {position for position, _ in appended}
    assert len(appended) == len(kept) + removed
    for (kind, _), one in zip(kinds, said, strict=True):
        assert all(a < b for a, b in itertools.pairwise(one["got"])), f"{kind}: not in order"
        assert missed(kind, one, appended) == [], f"{kind}: skipped in silence"
        if kind in ("durable", "group") and not force:
            assert one["told"] == [], f"{kind} was not protected"
    assert any(one["told"] for one in said), "no reader was ever behind"
