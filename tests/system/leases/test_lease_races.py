"""Holders and waiters are killed and stopped: one holder at a time, in the queue's order."""

from __future__ import annotations

import os
import random
import signal
import time
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from itertools import pairwise

import psycopg
import pytest

from pgmem import Memory
from tests.support.leases import notifiable
from tests.support.options import size
from tests.support.processes import Worker, ready, seed

TTL = 0.6

# Takes its turns. Each has effects in the transaction of a write that is fenced by the lease, and
# their time is the server's.
TAKING_TURNS = """
import json, os, random, sys, time
from pgmem import Memory
from pgmem.errors import LeaseLost
url, ttl, seconds, rng = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), random.Random()
def say(*words): print(json.dumps([time.monotonic(), os.getpid(), *words]), flush=True)
def work(memory, lease):
    for _ in range(rng.randrange(1, 4)):
        with memory.transaction() as tx:
            entry = tx.state.get("done")
            tx.state.compare_and_set("done", lease.token, fence=lease,
                                     expected_version=entry.version if entry else 0)
            tx.connection.execute(
                "INSERT INTO effects VALUES (%s, clock_timestamp())", [lease.token])
        time.sleep(rng.uniform(0, 0.01))
with Memory(url, pool=3) as memory:
    print(json.dumps("ready"), flush=True); sys.stdin.readline()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        say("asks", 0)
        try:
            with memory.leases.hold("job", ttl=ttl) as lease:
                say("holds", lease.token)
                work(memory, lease)
                say("gives", lease.token)
        except LeaseLost:
            say("lost", 0)
"""

# Says what happens to one lease, and writes by it when told to.
ONE = """
import json, sys, time
from pgmem import Memory
from pgmem.errors import LeaseLost
def say(*words): print(json.dumps(words), flush=True)
with Memory(sys.argv[1], pool=3) as memory:
    say("ready"); sys.stdin.readline()
    lease = memory.leases.acquire("job", ttl=float(sys.argv[2]))
    say("holds", lease.token); sys.stdin.readline()
    say("lost", lease.lost is not None)
    try:
        memory.state.compare_and_set("k", "late", expected_version=1, fence=lease)
        say("wrote")
    except LeaseLost:
        say("refused")
    try:
        lease.release()
        say("released")
    except LeaseLost:
        say("refused")
"""


def stop(worker):
    os.kill(worker.process.pid, signal.SIGSTOP)


def wake(worker):
    os.kill(worker.process.pid, signal.SIGCONT)


def heard_from(worker, word, timeout=30.0):
    """Wait for a line that begins with `word`, and return it."""
    deadline = time.monotonic() + timeout
    while True:
        for line in worker.lines:
            if line[0] == word:
                return line
        assert time.monotonic() < deadline, (word, worker.lines)
        time.sleep(0.005)


def start(url, ttl):
    worker = Worker(ONE, url, ttl)
    ready([worker])
    return worker


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "free"])
def test_holder_that_stood_still_is_refused(database_url, taken):
    with Memory(database_url) as memory:
        memory.state.put("k", "early")
        # It is stopped long before the first renewal: the answer to one would keep `lost` None.
        sleeper = start(database_url, 3)
        old = heard_from(sleeper, "holds")[1]
        stop(sleeper)
        if taken:
            lease = memory.leases.acquire("job", timeout=20)
            assert lease.token > old
        else:
            time.sleep(3.1)
        wake(sleeper)
        sleeper.say()
        said = sleeper.finish()
        assert said[2:] == [["lost", True], ["refused"], ["refused"]]
        entry = memory.state.get("k")
        assert (entry.value, entry.version) == ("early", 1)
        if taken:
            memory.state.compare_and_set("k", "new", expected_version=1, fence=lease)
            lease.release()


def test_waiter_that_stood_still_does_not_use_an_old_grant(database_url):
    # It was the first waiter and was granted the lease, which ran out before it woke up.
    with Memory(database_url) as memory:
        memory.state.put("k", 1)
        lease = memory.leases.acquire("job")
        sleeper = start(database_url, 0.5)
        while notifiable(database_url) == 0:
            time.sleep(0.01)
        stop(sleeper)
        lease.release()
        given = memory.leases.get("job").token
        lease = memory.leases.acquire("job", timeout=5)
        assert lease.token > given
        wake(sleeper)
        time.sleep(0.5)
        assert sleeper.lines == [["ready"]]
        lease.release()
        assert heard_from(sleeper, "holds")[1] > lease.token
        sleeper.say()
        assert ["wrote"] in sleeper.finish()


def listening(url):
    """Count the listening sessions."""
    with psycopg.connect(url) as server:
        return server.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'pgmem listener'"
        ).fetchone()[0]


def test_dead_waiter_is_passed_over(database_url):
    with Memory(database_url, safety_poll=30) as memory:
        lease = memory.leases.acquire("job")
        waiters = []
        for n in range(3):
            waiters.append(start(database_url, 60))
            while notifiable(database_url) == n:
                time.sleep(0.01)
        for worker in waiters[:2]:
            worker.kill()
            worker.process.join()
        # The server finds out a moment later. A waiter that is granted the lease before keeps it.
        deadline = time.monotonic() + 10
        while listening(database_url) > 1:
            assert time.monotonic() < deadline, "the server keeps the sessions of the dead"
            time.sleep(0.01)
        lease.release()
        heard_from(waiters[2], "holds", 15)
        waiters[2].kill()
        for worker in waiters:
            worker.finish()


@pytest.mark.sized
def test_one_holder_at_a_time_while_processes_are_killed(database_url):
    rng = random.Random(seed())
    seconds = size(60, 6)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE effects (token bigint, at timestamptz)")
        workers = [Worker(TAKING_TURNS, database_url, TTL, seconds) for _ in range(8)]
        ready(workers)
        ended, end, kills = [], time.monotonic() + seconds, {"holds": 0, "waits": 0}
        while time.monotonic() < end:
            time.sleep(rng.uniform(0.05, 0.3))
            victim = rng.choice(workers)
            # On a busy machine a process takes longer to start than to be killed. If those that
            # start were killed too, none would be left that takes a turn.
            if not victim.running() or len(victim.lines) < 2:
                continue
            doing = victim.lines[-1][2]
            # Waiters die more often, because all wait for the lease of a dead holder to run out.
            if doing == "holds" and rng.random() < 0.3:
                continue
            victim.kill()
            kills["holds" if doing == "holds" else "waits"] += 1
            ended.append(victim)
            rest = max(end - time.monotonic(), 0.0)
            new = Worker(TAKING_TURNS, database_url, TTL, rest)
            workers[workers.index(victim)] = new
            new.say()
        for worker in [*workers, *ended]:
            worker.finish()
        effects = connection.execute("SELECT token FROM effects ORDER BY at").fetchall()
    everybody = [*workers, *ended]
    said = sorted(line for w in everybody for line in w.lines if line != "ready")
    turns = [line for line in said if line[2] == "holds"]
    print(f"{len(turns)} turns, {len(effects)} effects, kills {kills}")
    assert len(turns) > 20, "too few turns to show anything"
    assert kills["waits"] > 5
    check_one_at_a_time(turns, effects)
    check_order(said)
    # The end of a killed holder's lease frees it. The entry of a killed waiter counts for 60 s.
    assert max(after[0] - first[0] for first, after in pairwise(turns)) < 10


def check_one_at_a_time(turns, effects):
    """Check that, by the server's clock, no effect of an older token follows one of a newer."""
    assert all(first <= after for first, after in pairwise(effects))
    tokens = [token for _, _, _, token in turns]
    assert len(set(tokens)) == len(tokens), "one token was given twice"
    by_worker = {}
    for _, pid, _, token in turns:
        assert token > by_worker.get(pid, 0)
        by_worker[pid] = token


def check_order(said):
    """Check that a waiter gets the lease after those that asked before it."""
    turns = [line for line in said if line[2] == "holds"]
    times = [line[0] for line in turns]
    by_worker = defaultdict(list)
    for line in said:
        by_worker[line[1]].append(line)
    for mine in by_worker.values():
        for asks, answer in pairwise(mine):
            if (asks[2], answer[2]) != ("asks", "holds"):
                continue  # Killed while it waited, or given up.
            before = turns[bisect_right(times, asks[0]) : bisect_left(times, answer[0])]
            assert max(Counter(line[1] for line in before).values(), default=0) <= 2
            assert len(before) <= 24
