"""The owner of a durable subscription is killed or paused: no work counts twice."""

from __future__ import annotations

import os
import random
import signal
import time

import psycopg
import pytest

from tests.support.options import size
from tests.support.processes import Worker, ready, seed
from tests.support.stalls import Stalls

# Acquires the subscription and does its work: a row for each position, in the commit's transaction.
# Told to pause, it stays in the transaction until it hears from us, before or after its commit.
WORKER = """
import json, os, sys, time
from pgmem import Memory
from pgmem._sync.events.durable_lease import SubscriptionLease
from pgmem.errors import LeaseLost, TransactionConflict
url, lease_seconds, last, pause = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
def say(*words): print(json.dumps([time.monotonic(), *words]), flush=True)
def hear(): say("paused"); sys.stdin.readline()
def hold(memory):
    lease = SubscriptionLease(memory._executor, "billing", {}, start=0, lease=lease_seconds,
                          owner=f"{os.getpid()}", on_lost=lambda error: None,
                          on_promotion=memory._reader.follow_history)
    while (wait := lease.try_acquire()) is not None:
        time.sleep(wait)
    return lease
def work(memory, lease):
    position = lease.position
    say("acquired", position)
    while position < last:
        with memory.transaction() as tx:
            tx.connection.execute("INSERT INTO effects VALUES (%s)", [position + 1])
            if pause == "before": hear()
            lease.commit(position + 1, tx.events._executor)
            if pause == "after": hear()
        position += 1
        say("committed", position)
with Memory(url, pool=3) as memory:
    print(json.dumps("ready"), flush=True); sys.stdin.readline()
    while (found := memory.subscriptions.get("billing")) is None or found.position < last:
        lease = hold(memory)
        try:
            work(memory, lease)
        except LeaseLost:
            say("lost", lease.position)
        lease.release()
say("over")
"""


def words(worker):
    return [line[1:] for line in worker.lines if line != "ready"]


def heard(worker, *word, timeout=60.0):
    """Wait until a worker has said something; gives when it said it."""
    deadline = time.monotonic() + timeout
    while True:
        for line in worker.lines:
            if line != "ready" and tuple(line[1 : 1 + len(word)]) == word:
                return line[0]
        assert time.monotonic() < deadline, (word, worker.lines)
        assert worker.running() or worker.lines, "it ended"
        time.sleep(0.005)


def start(url, lease, last, pause="never"):
    worker = Worker(WORKER, url, lease, last, pause)
    ready([worker])
    return worker


def prepare(url):
    connection = psycopg.connect(url, autocommit=True)
    connection.execute("CREATE TABLE effects (position bigint)")
    return connection


def check_exactly_once(connection, last):
    (position,) = connection.execute("SELECT position FROM pgmem.subscriptions").fetchone()
    effects = connection.execute("SELECT position FROM effects ORDER BY position").fetchall()
    assert position == last
    assert effects == [(n,) for n in range(1, last + 1)]


def stop(worker):
    os.kill(worker.process.pid, signal.SIGSTOP)


def wake(worker):
    os.kill(worker.process.pid, signal.SIGCONT)


def test_a_killed_owner_is_replaced_within_its_lease_and_a_second(database_url):
    lease = 1.0
    with prepare(database_url) as connection:
        holder = start(database_url, lease, 3, "before")
        heard(holder, "paused")
        other = start(database_url, lease, 3)
        time.sleep(0.5)
        assert words(other) == []
        with Stalls() as stalls:
            holder.kill()
            killed = time.monotonic()
            acquired = heard(other, "acquired")
        assert acquired - killed < lease + 1 + stalls.allowance
        other.finish()
        holder.finish()
        check_exactly_once(connection, 3)


def test_a_released_subscription_is_taken_over_within_a_second(database_url):
    with prepare(database_url) as connection:
        first = start(database_url, 60, 1, "before")
        heard(first, "paused")
        second = start(database_url, 60, 2)
        time.sleep(0.2)
        assert words(second) == []
        with Stalls() as stalls:
            released = time.monotonic()
            first.say()
            heard(second, "acquired", 1)
            committed = heard(second, "committed", 2)
        assert committed - released < 1.5 + stalls.allowance
        first.finish()
        second.finish()
        check_exactly_once(connection, 2)


def test_a_paused_owner_is_refused_with_its_effects_after_a_takeover(database_url):
    """Pause in the transaction before the commit, where no lock delays the other owner."""
    with prepare(database_url) as connection:
        sleeper = start(database_url, 0.5, 4, "before")
        heard(sleeper, "paused")
        stop(sleeper)
        other = start(database_url, 0.5, 4)
        heard(other, "committed", 4, timeout=20)
        wake(sleeper)
        sleeper.say()
        heard(sleeper, "lost")
        sleeper.finish()
        other.finish()
        assert ["committed", 1] not in words(sleeper)
        check_exactly_once(connection, 4)


def test_an_owner_paused_after_its_commit_is_waited_for(database_url):
    """Pause after the commit: the lease has run out, and the other owner waits for the end."""
    with prepare(database_url) as connection:
        sleeper = start(database_url, 0.5, 1, "after")
        heard(sleeper, "paused")
        stop(sleeper)
        other = start(database_url, 0.5, 4)
        time.sleep(1.5)
        assert words(other) == []
        wake(sleeper)
        sleeper.say()
        heard(other, "acquired", 1)
        sleeper.finish()
        other.finish()
        check_exactly_once(connection, 4)


@pytest.mark.sized
def test_takeovers_race_commits_and_every_position_has_one_effect(database_url):
    """Pause owners for longer than their lease, and kill them, again and again."""
    rng = random.Random(seed())
    lease, last = 0.1, size(8_000, 1_500)
    with prepare(database_url) as connection:
        workers = [Worker(WORKER, database_url, lease, last, "never") for _ in range(4)]
        ready(workers)
        ended = []
        query = "SELECT owner, position FROM pgmem.subscriptions"
        deadline = time.monotonic() + size(600, 120)
        while any(worker.running() for worker in workers):
            assert time.monotonic() < deadline, "did not finish"
            time.sleep(rng.uniform(0, 0.1))
            owner, position = connection.execute(query).fetchone() or ("", 0)
            holders = [w for w in workers if (owner or "").startswith(f"{w.process.pid} ")]
            if position >= last or not holders or not holders[0].running():
                continue
            if rng.random() < 0.3:
                holders[0].kill()
                ended.append(holders[0])
                workers[workers.index(holders[0])] = new = Worker(
                    WORKER, database_url, lease, last, "never"
                )
                new.say()
            else:
                stop(holders[0])
                time.sleep(lease * rng.uniform(0.5, 2.5))
                wake(holders[0])
        said = [line for worker in [*ended, *workers] for line in worker.finish()]
        lost = sum(1 for line in said if line[1] == "lost")
        acquired = sum(1 for line in said if line[1] == "acquired")
        print(f"{len(ended)} kills, {acquired} acquisitions, {lost} late ones refused")
        assert acquired > 5, "too few takeovers to show anything"
        check_exactly_once(connection, last)
