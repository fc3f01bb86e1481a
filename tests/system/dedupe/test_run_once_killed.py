"""Work under idempotency keys while its workers are killed: each effect once, one result."""

from __future__ import annotations

import random
import time

import psycopg
import pytest

from tests.support.options import size
from tests.support.processes import Worker, ready, seed

pytestmark = pytest.mark.sized

# Effects in this database: mark and effect in one transaction.
TRANSACTIONAL = """
import json, os, random, sys
from pgmem import Memory
url, keys, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
order = list(range(keys)); random.Random(seed).shuffle(order)
with Memory(url, pool=1) as memory:
    print(json.dumps("ready"), flush=True); sys.stdin.readline()
    for key in order:
        with memory.transaction() as tx:
            def work():
                tx.connection.execute("INSERT INTO effects VALUES (%s, %s)", [key, os.getpid()])
                return {"key": key, "by": os.getpid()}
            outcome = tx.dedupe.run_once(f"work:{key}", work)
        print(json.dumps([key, outcome.status, outcome.result]), flush=True)
"""

# Effects elsewhere: claim, do, complete. The "elsewhere" keeps what it was asked to do.
CLAIMING = TRANSACTIONAL.replace(
    """        with memory.transaction() as tx:
            def work():
                tx.connection.execute("INSERT INTO effects VALUES (%s, %s)", [key, os.getpid()])
                return {"key": key, "by": os.getpid()}
            outcome = tx.dedupe.run_once(f"work:{key}", work)
""",
    """        def work():
            return {"key": key, "by": os.getpid(), "n": random.random()}
        outcome = memory.dedupe.run_once(f"work:{key}", work, lease=0.5)
""",
)


def run(script, url, keys):
    """8 processes on the same keys; now and again a random one is killed, and another started."""
    rng = random.Random(seed())
    workers = [Worker(script, url, keys, rng.randrange(2**31)) for _ in range(8)]
    ready(workers)
    ended, kills = [], 0
    deadline = time.monotonic() + size(300, 90)
    while any(worker.running() for worker in workers):
        assert time.monotonic() < deadline, "did not finish"
        time.sleep(size(0.1, 0.02))  # Else a fast machine is done before there were five kills.
        # At full size until all the work is done; then the last ones may read its results in peace.
        if kills >= size(10_000, 12) or _done(url) == keys:
            continue
        victim = rng.randrange(len(workers))
        if workers[victim].running():
            workers[victim].kill()
            kills += 1
            ended.append(workers[victim])
            workers[victim] = Worker(script, url, keys, rng.randrange(2**31))
            workers[victim].say()
    said = [line for worker in [*ended, *workers] for line in worker.finish() if line != "ready"]
    print(f"{kills} kills, {len(said)} outcomes")
    assert kills >= 5, "too few kills to show anything"
    return said


def _done(url):
    with psycopg.connect(url) as connection:
        query = "SELECT count(*) FROM pgmem.dedupe WHERE completed_at IS NOT NULL"
        return connection.execute(query).fetchone()[0]


@pytest.mark.parametrize("script", [TRANSACTIONAL, CLAIMING], ids=["transaction", "claim"])
def test_each_effect_once_and_each_caller_the_one_result(database_url, script):
    keys = size(2000, 1000)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE effects (key int, by int)")
        said = run(script, database_url, keys)
        effects = connection.execute("SELECT key, by FROM effects").fetchall()
        stored = dict(
            connection.execute("SELECT (result->>'key')::int, result FROM pgmem.dedupe").fetchall()
        )
    assert len(stored) == keys
    for key, _, result in said:
        assert result == stored[key], f"key {key} gave two results"
    processed = [key for key, status, _ in said if status == "processed"]
    assert len(processed) == len(set(processed)), "done twice, and said so"
    if script is TRANSACTIONAL:
        assert len(effects) == len({key for key, _ in effects}) == keys
        assert all(stored[key]["by"] == by for key, by in effects)
