"""Count what is lost when the server dies: what was acknowledged, and what is found.

::

    start ─▶ 4 threads write, as fast as they can ─▶ the fault, at a random moment
          ─▶ start on the data that is left ─▶ compare with what had been acknowledged

There are two faults: `kill -9` of all of the server's processes, and a power cut, which also makes
their disk fail first (`benchmarks.disk`). The processes are stopped first, so that nothing is
acknowledged after the moment of the fault.

The figure is a count. A tier that does not promise to keep everything may lose: that is its figure,
and the note says what it promises. A loss is a fault only in a tier that promises to keep
everything. Events that are written twice, in another order or in part are a fault in every tier.
The interrupted call has no known outcome: its event may be there or not.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.audit import Faults, compare_each
from benchmarks.disk import Disk, NoDisk, powered
from benchmarks.harness import Arm, Kind, Limit, Sample, Scenario, Tier
from benchmarks.scenarios._base import Bench, Entry
from benchmarks.scenarios._killed import (
    CutOff,
    Durability,
    Found,
    PgmemStore,
    RedisStore,
    Store,
    Write,
    kill,
)
from benchmarks.servers import ServerError

TIMEOUT = 30.0
WAL_WRITER_MS = 600
WRITERS, KEYS = 4, 10
DISK_MEGABYTES = 1024

KILL, CUT = "kill -9", "power cut"
ACKNOWLEDGED, REACHING = "acknowledged", "lost of the last ms"

Fault = Callable[[Store], None]


@dataclass(frozen=True, slots=True)
class Way:
    """Describe an arm of both scenarios.

    Attributes:
        name: of the arm.
        kind, tier: of the arm.
        what: the call.
        make: creates its server in a folder.
        risks: what may be lost, by fault; none if the tier promises to keep everything.
    """

    name: str
    kind: Kind
    tier: Tier
    what: str
    make: Callable[[Path], Store]
    risks: Mapping[str, str] = field(default_factory=dict)

    @property
    def keeps(self) -> bool:
        """True if it promises to keep everything that it acknowledged."""
        return self.tier == "strict"

    def note(self, fault: str) -> str:
        """Return its call and its promise, in words."""
        return f"{self.what}: {self.risks.get(fault, 'promises to keep everything')}"


def _redis(tier: Tier, *, multi: bool = True) -> Callable[[Path], Store]:
    return lambda folder: RedisStore(folder, tier, multi=multi)


def _pgmem(durability: Durability) -> Callable[[Path], Store]:
    return lambda folder: PgmemStore(folder, durability)


PUT, MULTI, APART = "state.put(event=…)", "MULTI: XADD, HSET", "XADD, then HSET"
FRACTION = dict.fromkeys(
    (KILL, CUT), f"may lose the last {WAL_WRITER_MS} ms (3 × wal_writer_delay)"
)
SECOND = {
    KILL: "may lose up to 2 s, and only while the disk makes its writes wait",
    CUT: "may lose the last 1 to 2 s",
}
NOTHING = dict.fromkeys((KILL, CUT), "promises nothing")

WAYS = (
    Way("pgmem strict", "pgmem", "strict", PUT, _pgmem("strict")),
    Way("redis always", "redis", "strict", MULTI, _redis("strict")),
    Way("published always", "published", "strict", APART, _redis("strict", multi=False)),
    Way("pgmem relaxed", "pgmem", "relaxed", PUT, _pgmem("relaxed"), FRACTION),
    Way("redis everysec", "redis", "relaxed", MULTI, _redis("relaxed"), SECOND),
    Way(
        "published everysec",
        "published",
        "relaxed",
        APART,
        _redis("relaxed", multi=False),
        SECOND,
    ),
    Way("redis none", "redis", "none", MULTI, _redis("none"), NOTHING),
)


@dataclass(slots=True)
class Written:
    """Hold what one thread wrote.

    Attributes:
        numbers: the acknowledged numbers, in that order.
        times: when, by `time.monotonic`.
        unknown: the interrupted call.
        failed: any other error that ended it.
    """

    numbers: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    unknown: int | None = None
    failed: Exception | None = None


def _fill(write: Write, label: str, writer: int, written: Written) -> None:
    """Write until the server has ended; each thread has numbers and keys of its own."""
    for number in itertools.count(writer * 10**9):
        try:
            write(f"{label}:{writer}:{number % KEYS}", number)
        except CutOff:
            written.unknown = number
            return
        except Exception as error:  # another thread must report it
            written.failed = error
            return
        written.times.append(time.monotonic())
        written.numbers.append(number)


def kill_server(store: Store) -> None:
    """Send SIGKILL to all of its processes."""
    kill(store.freeze())
    store.abandon()


def cut_power(disk: Disk, store: Store) -> None:
    """Make the disk fail first, or a dying process might still sync something."""
    pids = store.freeze()
    disk.cut()
    kill(pids)
    store.abandon()
    disk.remount()


def audit(written: Sequence[Written], found: Found) -> Faults:
    """Count the faults of what was written, for any promise."""
    there = {number for _, number in found.events}
    wanted = [
        [*w.numbers, *([w.unknown] if w.unknown is not None and w.unknown in there else [])]
        for w in written
    ]
    last = dict(found.events)
    torn = sum(last.get(key) != found.states.get(key) for key in last.keys() | found.states.keys())
    return compare_each(wanted, [number for _, number in found.events]) + Faults(torn=torn)


def crash(store: Store, fault: Fault, seconds: float, *, keeps: bool) -> Sample:
    """Run one round.

    Args:
        store: the server; it is stopped.
        fault: what happens to it.
        seconds: how long the writers write.
        keeps: it promises to keep everything that it acknowledges.
    """
    label = f"crash-{uuid.uuid4().hex[:12]}"
    written = [Written() for _ in range(WRITERS)]
    store.start()
    try:
        with store.writers(label, WRITERS) as writes:
            threads = [
                threading.Thread(target=_fill, args=(write, label, who, written[who]), daemon=True)
                for who, write in enumerate(writes)
            ]
            for thread in threads:
                thread.start()
            time.sleep(seconds)
            early = [w for w in written if w.failed or w.unknown is not None]
            fault(store)
            for thread in threads:
                thread.join(TIMEOUT)
        for w in written:
            if w.failed or w in early:
                raise ServerError("a writer ended before the fault, or not by it") from w.failed
        if any(thread.is_alive() for thread in threads):
            raise ServerError(f"a writer did not notice in {TIMEOUT:g} s that its server is gone")
        store.start()
        found = store.found(label)
    finally:
        store.stop()
    return _sample(written, found, keeps=keeps)


def _sample(written: Sequence[Written], found: Found, *, keeps: bool) -> Sample:
    faults = audit(written, found)
    there = {number for _, number in found.events}
    acknowledged = sum(len(w.numbers) for w in written)
    missing = [
        at
        for w in written
        for number, at in zip(w.numbers, w.times, strict=True)
        if number not in there
    ]
    # The last noted acknowledgement stands for the moment of the fault: a writer may note an answer
    # a moment after that.
    latest = max((at for w in written for at in w.times), default=0.0)
    figures = {
        ACKNOWLEDGED: float(acknowledged),
        REACHING: (latest - min(missing, default=latest)) * 1e3,
    }
    return Sample(faults.lost, faults if keeps else replace(faults, lost=0), figures)


def _scenario(bench: Bench, name: str, title: str, fault: Fault, folder: Path) -> Scenario:
    rng = random.SystemRandom()
    low, high = (0.5, 1.0) if bench.quick else (1.5, 2.5)

    def arm(way: Way) -> Arm:
        store = way.make(folder)
        return Arm(
            way.name,
            lambda: crash(store, fault, rng.uniform(low, high), keeps=way.keeps),
            way.note(title),
            way.kind,
            way.tier,
        )

    return Scenario(
        name,
        f"{title} while {WRITERS} threads write event + state: acknowledged, and lost",
        "writes lost",
        [arm(way) for way in WAYS],
        limits=[
            Limit("pgmem strict", REACHING, 0, always=True),
            Limit("pgmem relaxed", REACHING, WAL_WRITER_MS, always=True),
        ],
        rounds=bench.counted(3, 1),
        warmup=0,
    )


@contextlib.contextmanager
def killed(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Kill the server; its data is where all temporary files are."""
    with tempfile.TemporaryDirectory(prefix="pgmem-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # a server of another user passes here
        yield [_scenario(bench, "crash_kill", KILL, kill_server, folder)]


@contextlib.contextmanager
def powerless(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Cut the power, if that is possible here."""
    with contextlib.ExitStack() as stack:
        try:
            disk = stack.enter_context(powered(DISK_MEGABYTES))
        except NoDisk as error:
            bench.leave_out("crash_power", f"the power of a disk cannot be cut here: {error}")
            yield []
            return
        fault = functools.partial(cut_power, disk)
        yield [_scenario(bench, "crash_power", CUT, fault, disk.path)]


ENTRIES = (
    Entry("crash_kill", "what a kill -9 of the server loses", killed, (90, 25)),
    Entry("crash_power", "what a power cut loses", powerless, (90, 25)),
)
