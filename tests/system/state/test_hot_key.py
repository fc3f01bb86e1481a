"""Many processes write one key: no update is lost, no writer starves, each version comes once."""

from __future__ import annotations

import statistics

import pytest

from tests.support.options import size
from tests.support.processes import Worker, ready

pytestmark = pytest.mark.sized

UPDATER = """
import json, sys
from pgmem import Memory
url, count = sys.argv[1], int(sys.argv[2])
with Memory(url, pool=1) as memory:
    print(json.dumps("ready"), flush=True); sys.stdin.readline()
    versions = [memory.state.update("hot", lambda v: (v or 0) + 1).version for _ in range(count)]
    print(json.dumps(versions), flush=True)
"""

CHECKER = """
import json, random, sys, time
from pgmem import Memory
from pgmem.errors import VersionConflict
url, name, seed, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(seed)
with Memory(url, pool=1) as memory:
    print(json.dumps("ready"), flush=True); sys.stdin.readline()
    for n in range(count):
        key = f"k{rng.randrange(3)}"
        began = time.monotonic()
        entry = memory.state.get(key)
        read = [entry.version, entry.value] if entry else [0, None]
        print(json.dumps(["read", key, began, time.monotonic(), *read]))
        time.sleep(rng.random() * 0.003)
        value = f"{name}:{n}"
        began = time.monotonic()
        try:
            written = memory.state.compare_and_set(key, value, expected_version=read[0])
            print(json.dumps(["write", key, began, time.monotonic(), written.version, value]))
        except VersionConflict as conflict:
            found = conflict.current.value if conflict.current else None
            print(json.dumps(["conflict", key, began, time.monotonic(), conflict.actual, found,
                              conflict.expected]))
"""


def test_sixteen_processes_lose_no_update_and_none_starves(memory, database_url):
    """16 processes, 200 increments each with --full.

    The version of a process's last increment tells when it finished, whatever the machine does.
    """
    each = size(200, 40)
    workers = [Worker(UPDATER, database_url, each) for _ in range(16)]
    ready(workers)
    results = [worker.finish(120)[1] for worker in workers]
    ends = sorted(versions[-1] for versions in results)
    print(f"finished at versions {ends[0]} to {ends[-1]}")
    entry = memory.state.get("hot")
    assert (entry.value, entry.version) == (16 * each, 16 * each)
    assert sorted(version for versions in results for version in versions) == list(
        range(1, 16 * each + 1)
    )
    assert ends[-1] <= 3 * statistics.median(ends)


def test_compare_and_set_histories_are_linearizable(memory, database_url):
    """Check that versions are unique and contiguous and that reads follow real time."""
    workers = [Worker(CHECKER, database_url, f"w{n}", n, size(150, 60)) for n in range(8)]
    ready(workers)
    history = [line for worker in workers for line in worker.finish()[1:]]
    for key in ("k0", "k1", "k2"):
        mine = [line for line in history if line[1] == key]
        writes = {line[4]: line[5] for line in mine if line[0] == "write"}
        assert sorted(writes) == list(range(1, len(writes) + 1)), key
        assert len(writes) == sum(line[0] == "write" for line in mine)
        writes[0] = None
        conflicts = [line for line in mine if line[0] == "conflict"]
        for line in mine:
            assert writes[line[4]] == line[5], f"not what was written as version {line[4]}: {line}"
        for _, _, _, _, actual, _, expected in conflicts:
            assert actual != expected, "a conflict without another version"
        _check_real_time(mine)
        assert conflicts, "no conflict happened: the test shows nothing"
    assert (
        memory.state.get("k0").value
        == max((line for line in history if line[:2] == ["write", "k0"]), key=lambda line: line[4])[
            5
        ]
    )


def _check_real_time(lines):
    """Check that each call saw at least the versions of calls that had returned before."""
    ended = sorted((line[3], line[4]) for line in lines)
    newest, position = 0, 0
    for line in sorted(lines, key=lambda line: line[2]):
        while position < len(ended) and ended[position][0] < line[2]:
            newest = max(newest, ended[position][1])
            position += 1
        assert line[4] >= newest + (line[0] == "write" and newest == line[4]), line
