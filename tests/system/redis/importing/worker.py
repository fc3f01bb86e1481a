"""Run one mode of the import in a process that can kill itself during the run."""

from __future__ import annotations

import random

from pgmem.redis import Imports
from tests.support.processes import Worker

# Arguments: the database, the Redis, the file of refused items, the mode, and after how many
# statements and commands to die (0: never). An odd number dies before the last one is sent, an even
# one after its answer has arrived.
SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
from pgmem import Memory
from pgmem._sync.core.execution import PoolExecutor
from pgmem.redis import open_import, parse_rules
from pgmem.redis.importing import streams
from pgmem.redis.importing.cutover import cut_over
from pgmem.redis.importing.reverse import reverse
from pgmem.redis.importing.source import RedisSource

url, redis_url, file, mode, dies, page = sys.argv[1:]
streams.PAGE = int(page)
left = int(dies)

def counting(call):
    def counted(*args, **more):
        global left
        left -= 1
        if left == 0 and int(dies) % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = call(*args, **more)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    return counted

RedisSource._run = counting(RedisSource._run)
PoolExecutor.execute = counting(PoolExecutor.execute)
import pgmem.redis.importing.cutover as module
module.GRACE = 0.01

print(json.dumps("ready"), flush=True)
sys.stdin.readline()
with Memory(url, pool=(1, 2)) as memory, open_import(
    memory, redis_url, parse_rules(strings="done"), refused=Path(file), name="test"
) as importer:
    if mode == "import":
        importer.begin()
        importer.run()
    elif mode == "cut over":
        cut_over(importer)
    else:
        reverse(importer)
print(json.dumps({"counted": int(dies) - left}), flush=True)
"""


def started(database_url, redis_url, file, mode, *, dies=0, page=2_000):
    """Start a worker, and wait until it has begun."""
    worker = Worker(SCRIPT, database_url, redis_url, file, mode, dies, page)
    while not worker.lines:
        assert worker.running() or worker.lines, "the worker did not begin"
    worker.say()
    return worker


def until_it_is_done(
    memory, database_url, redis_url, file, mode, *, rng: random.Random, deaths, page=20
):
    """Run a mode, killed up to `deaths` times, and then to its end.

    Return how many times it was killed.
    """
    killed = 0
    for _ in range(deaths):
        dies = rng.randrange(1, 60)
        worker = started(database_url, redis_url, file, mode, dies=dies, page=page)
        worker.process.join(60)
        assert not worker.running()
        if worker.process.exitcode == 0:
            return killed
        killed += 1
    part = Imports(memory).get("test", "import")
    if mode == "reverse" and part.detail["phase"] == "importing":
        return killed  # it was killed when it had nothing left to do
    worker = started(database_url, redis_url, file, mode, page=page)
    worker.finish()
    return killed
