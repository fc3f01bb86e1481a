"""Kill a process at each step of a trim, and check what is left.

The log has 38 events in three streams, two gaps, one delayed event of a group, and a versioned
stream. A step is a statement, the begin or commit of a transaction, or an operation on a file. The
process can be stopped before each of them.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import psycopg

from pgmem import Memory
from pgmem.errors import PositionTrimmed
from tests.support.retention import add_delayed, left, marks, run, store_group

KEEP, BATCH, LAST = 6, 10, 40
GAPS, DELAYED, VERSIONED = (7, 23), 9, (5, 11)

# Trims once. At the step of the given number (0 for none) it kills itself, or it prints the step
# and waits for a line. At its end it prints the removed count or its error.
TRIMMER = """
import asyncio, importlib, json, os, signal, sys
from pgmem import AsyncMemory, Memory
from pgmem.errors import PgmemError
from pgmem.retention import ops as retention
url, form, batch, keep, folder, at, how = sys.argv[1:8]
retention.BATCH = retention.ARCHIVED_BATCH = int(batch)
steps = []

def step(name):
    steps.append(name)
    if len(steps) == int(at):
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        print(json.dumps(name), flush=True)
        sys.stdin.readline()

def before(owner, name, told):
    real = getattr(owner, name)
    def call(*args, **options):
        step(told(*args))
        return real(*args, **options)
    setattr(owner, name, call)

class Halves:
    def __init__(self, file):
        self._file = file
    def write(self, data):
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        step("second half")
        self._file.write(data[half:])
    def __getattr__(self, name):
        return getattr(self._file, name)
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self._file.close()

first, root = ("Async", "pgmem") if form == "async" else ("", "pgmem._sync")
runners = importlib.import_module(root + ".core.execution")
executor = getattr(runners, first + "PoolExecutor")
before(executor, "_execute_once", lambda self, op, *rest: op.statement)
before(executor, "_begin", lambda *rest: "begin")
before(executor, "_commit", lambda *rest: "commit")
before(getattr(runners, first + "TransactionExecutor"), "execute", lambda self, op: op.statement)
before(os, "open", lambda path, *rest: "open " + str(path)[-4:])
before(os, "fsync", lambda descriptor: "fsync")
before(os, "replace", lambda *rest: "replace")
archive = importlib.import_module(root + ".retention.archive")
archive.open = lambda *args: Halves(open(*args))

limits = {"max_events": int(keep), "export": folder or None}
async def awaited():
    async with AsyncMemory(url, pool=1) as memory:
        return await memory.retention.trim(**limits)
try:
    if form == "async":
        report = asyncio.run(awaited())
    else:
        with Memory(url, pool=1) as memory:
            report = memory.retention.trim(**limits)
    print(json.dumps({"removed": report.removed, "error": None, "steps": steps}))
except PgmemError as error:
    print(json.dumps({"removed": None, "error": type(error).__name__, "steps": steps}))
"""


def prepare(url) -> dict[int, str]:
    """Replace the log; return its events by position."""
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("SET session_replication_role = replica")
        owner.execute("TRUNCATE pgmem.events, pgmem.trimmed, pgmem.groups, pgmem.delayed CASCADE")
        owner.execute(
            "INSERT INTO pgmem.events (position, stream, stream_version, type, payload) "
            "SELECT n, CASE WHEN n = ANY (%(versioned)s) THEN 'v' WHEN n %% 2 = 0 THEN 'a' "
            "ELSE 'b' END, array_position(%(versioned)s, n), 't', n::text::json "
            "FROM generate_series(1, %(last)s) AS n WHERE n <> ALL (%(gaps)s)",
            {"versioned": list(VERSIONED), "last": LAST, "gaps": list(GAPS)},
        )
        owner.execute("SELECT setval('pgmem.events_position_seq', %s)", [LAST])
    store_group(url, LAST)
    add_delayed(url, DELAYED)
    return rows_of(url)


def rows_of(url) -> dict[int, str]:
    """Read the events by position."""
    return dict(run(url, "SELECT position, e::text FROM pgmem.events AS e ORDER BY position"))


def archives(folder: Path) -> list[Path]:
    """List the files that can be restored, newest first.

    A file that a killed process did not finish has another name or is empty.
    """
    files = [file for file in folder.glob("*.jsonl.gz") if file.stat().st_size]
    return sorted(files, key=_written, reverse=True)


def _written(file: Path) -> int:
    return json.loads(gzip.decompress(file.read_bytes()).split(b"\n")[0])["after"]["removed"]


def positions_in(file: Path) -> set[int]:
    """Read the positions in a file."""
    lines = gzip.decompress(file.read_bytes()).split(b"\n")[1:-1]
    return {json.loads(line)["position"] for line in lines}


def check(url, before: dict[int, str], folder: Path | None, stands) -> set[int]:
    """Check that removed events are recorded, reported to each reader behind them, and archived.

    Args:
        url: the log.
        before: the events before the trim.
        folder: the folder of the files; None if the trim writes none.
        stands: positions of readers.

    Returns:
        The removed positions.
    """
    now = left(url)
    gone = before.keys() - now
    assert set(now) <= before.keys()
    assert marks(url) == ({"": (max(gone), len(gone))} if gone else {}), "removed, not recorded"
    with Memory(url, pool=1) as memory:
        for position in stands:
            got, told = read_on(memory, position)
            behind = any(each > position for each in gone)
            assert told == (max(gone) if behind else None), f"at {position}: told {told}"
            silently = {each for each in before if each > max(position, told or 0)} - got
            assert not silently, f"at {position}: skipped in silence"
    if folder is not None:
        whole = [positions_in(file) for file in archives(folder)]
        assert gone <= set().union(*whole), "gone, and in no file"
    return gone


def read_on(memory, position: int) -> tuple[set[int], int | None]:
    """Read on from a position; return the events, and the end of the range reported missing."""
    told = None
    try:
        events = memory.events.read(after=position)
    except PositionTrimmed as error:
        told = error.trimmed_to if error.position == position else -1
        events = memory.events.read(after=told)
    return {event.position for event in events}, told
