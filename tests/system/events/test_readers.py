"""Readers that page through the log while many write: each event once, in order, none missing."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from pgmem import Event, Memory
from tests.support.options import size
from tests.support.processes import Worker, ready, seed

# Commits late, rolls back, uses savepoints, appends alone, in batches and in transactions.
WRITER = """
import json, random, sys, time
from pgmem import Event, Memory
url, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
with Memory(url, pool=1) as memory:
    print(json.dumps("ready"), flush=True); sys.stdin.readline()
    for n in range(count):
        stream, event = f"s{rng.randrange(3)}", Event(type="t", payload=[seed, n])
        kind = rng.random()
        if kind < 0.4:
            memory.events.append(stream, event)
        elif kind < 0.5:
            memory.events.append(stream, [event], idempotency_key=f"{seed}:{n}")
        else:
            try:
                with memory.transaction() as tx:
                    tx.events.append(stream, event)
                    time.sleep(rng.random() * 0.02)
                    if kind < 0.6:
                        raise ZeroDivisionError
                    if kind < 0.7:
                        try:
                            with tx.connection.transaction():
                                tx.events.append(stream, Event(type="never"))
                                raise ZeroDivisionError
                        except ZeroDivisionError:
                            pass
            except ZeroDivisionError:
                pass
"""


class Pager(threading.Thread):
    """Reads on from the last position it got."""

    def __init__(self, url, stop, **selection):
        super().__init__()
        self.url, self.stop, self.selection = url, stop, selection
        self.found = []

    def run(self):
        with Memory(self.url, pool=1) as memory:
            after, last_round = 0, False
            while True:
                page = memory.events.read(after=after, limit=50, timeout=0.05, **self.selection)
                if page:
                    after = page[-1].position
                    self.found += [(event.position, event.stream) for event in page]
                elif last_round:
                    return
                else:
                    last_round = self.stop.is_set()


@pytest.mark.sized
def test_no_event_is_skipped_repeated_or_out_of_order(database_url):
    base = seed()
    stop = threading.Event()
    readers = [Pager(database_url, stop) for _ in range(3)]
    readers += [Pager(database_url, stop, stream="s1") for _ in range(3)]
    workers = [Worker(WRITER, database_url, base + n, size(120, 40)) for n in range(12)]
    ready(workers)
    for reader in readers:
        reader.start()
        time.sleep(0.05)
    for worker in workers:
        worker.finish(90)
    stop.set()
    for reader in readers:
        reader.join(30)
    with psycopg.connect(database_url) as connection:
        log = connection.execute(
            "SELECT position, stream FROM pgmem.events ORDER BY position"
        ).fetchall()
        gaps = log[-1][0] - len(log)
    assert gaps > 20, "too few rollbacks to show anything"
    for reader in readers[:3]:
        assert reader.found == log
    for reader in readers[3:]:
        assert reader.found == [row for row in log if row[1] == "s1"]


@pytest.mark.sized
def test_two_racers_with_one_idempotency_key_append_once(database_url):
    event = Event(type="t", payload={"n": 1})
    for n in range(size(30, 10)):
        barrier = threading.Barrier(6)
        receipts = []

        def race(key, barrier=barrier, receipts=receipts):
            with Memory(database_url, pool=1) as memory:
                barrier.wait()
                receipts.append(memory.events.append("s", event, idempotency_key=key))

        threads = [threading.Thread(target=race, args=(f"k{n}",)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({receipt.position for receipt in receipts}) == 1
        assert sorted(receipt.duplicate for receipt in receipts) == [False] + [True] * 5


@pytest.mark.sized
@pytest.mark.parametrize("batch", [1, 5])
def test_racers_for_one_version_get_it_once(database_url, batch):
    from pgmem.errors import VersionConflict

    won, lost = [], []

    def race(name):
        with Memory(database_url, pool=1) as memory:
            for _ in range(size(40, 20)):
                version = memory.events.version("s")
                events = [Event(type="t", payload=name)] * batch
                try:
                    receipts = memory.events.append("s", events, expected_version=version)
                    won.append([receipt.version for receipt in receipts])
                except VersionConflict as conflict:
                    lost.append((version, conflict))

    threads = [threading.Thread(target=race, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(version for versions in won for version in versions) == list(
        range(1, batch * len(won) + 1)
    )
    assert all(versions == list(range(versions[0], versions[0] + batch)) for versions in won)
    assert len(won) + len(lost) == len(threads) * size(40, 20)
    assert all(conflict.actual > conflict.expected == version for version, conflict in lost)
