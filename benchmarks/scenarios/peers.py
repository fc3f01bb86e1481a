"""Measure pgmem beside other libraries that keep events, state or jobs in PostgreSQL.

`--peers` selects these. All run on one server at its default durability, each in a database of its
own, from processes of their own, with the same payload and the same serialiser. Each peer is used
as its documentation recommends; see `benchmarks/peers/worker/works` to check that.

What was acknowledged is compared with what the peer's own table holds, or what its reader received.
This module imports no peer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.audit import Faults, compare
from benchmarks.crew import Team, crew, together, until
from benchmarks.figures import histogram
from benchmarks.harness import Arm, Comparison, Kind, Sample, Scenario, of_times
from benchmarks.meter import Spent, Store, costs, timed
from benchmarks.peers.process import peer
from benchmarks.scenarios._base import AGENT, STREAM, TYPE, Bare, Bench, Entry, bare, payload
from pgmem import Event, Memory

KEYS = 1_000
DOCS = 3_000
OPEN = range(0, DOCS, 30)
"""The documents whose status is open, as `status` in the peers' works says."""


class Caller:
    """Run a process that makes calls of pgmem one after another, as the peers' processes do.

    Orders are "append", "fill", "put", "get", "put_ten", "put_ten_recorded", "fill_docs" and
    "search", each with a count; the answers are those of the peers.
    """

    def __init__(self, number: int, url: str) -> None:
        self._memory = Memory(url).open()
        self._next = 1

    def go(self, order: str, start: float, argument: float) -> dict[str, Any]:
        """Append, put or get."""
        name, _, text = order.partition("/")
        count = int(text)
        if name == "fill":
            for number in range(count):
                self._put("filled", number, number)
            return {}
        if name == "get":
            found: list[int] = []
            keys = [number * 7 % KEYS for number in range(count)]
            until(start)
            times = timed(lambda key: found.append(self._get(key)), keys)
            return {"found": found, "times": times}
        if name == "fill_docs":
            for number in range(count):
                status = "open" if number in OPEN else "closed"
                value = {**payload(number), "status": status}
                self._memory.state.put(f"docs:account:{number}", value, record=False)
            return {}
        if name == "search":
            matches: list[int] = []
            until(start)
            times = timed(lambda _: matches.append(self._search()), range(count))
            return {"found": matches, "times": times}
        if name.startswith("put_ten"):
            record = name.endswith("recorded")
            first = self._next
            self._next += 10 * count
            until(start)
            times = timed(lambda n: self._put_ten(n, record), range(first, self._next, 10))
            return {"first": first, "stop": self._next, "times": times}
        call = {"append": self._append, "put": lambda n: self._put("put", n % KEYS, n)}[name]
        first = self._next
        self._next += count
        until(start)
        times = timed(call, range(first, self._next))
        return {"first": first, "stop": self._next, "times": times}

    def _append(self, number: int) -> None:
        event = Event(type=TYPE, payload=payload(number), agent_id=AGENT)
        self._memory.events.append(STREAM, event)

    def _put(self, kind: str, key: int, number: int) -> None:
        self._memory.state.put(f"{kind}:account:{key}", payload(number), record=False)

    def _put_ten(self, first: int, record: bool) -> None:
        # Keys of their own: an unrecorded write appends an event if the one before was recorded.
        kind = "put:recorded" if record else "put:account"
        values = {f"{kind}:{n % KEYS}": payload(n) for n in range(first, first + 10)}
        self._memory.state.put_many(values, record=record)

    def _search(self) -> int:
        found = self._memory.state.search(
            "docs:", where={"status": "open"}, order="updated_at", reverse=True, limit=100
        )
        return sum(entry.value["n"] for entry in found)

    def _get(self, key: int) -> int:
        entry = self._memory.state.get(f"filled:account:{key}")
        return int(entry.value["n"]) if entry else -1

    def close(self) -> None:
        """Close the memory."""
        self._memory.close()


def _sample(times: Sequence[int], faults: Faults, spent: Spent) -> Sample:
    # The time of the calls: the metered block begins before the start that was agreed on.
    rate = len(times) / (sum(times) / 1e9)
    return of_times(histogram(times), faults, {**spent.figures(len(times)), "per second": rate})


@dataclass(frozen=True, slots=True)
class _Side:
    """Hold one library with its process, and a connection to read back what it holds.

    Attributes:
        name: the arm's.
        team: the process.
        store: the server.
        kept: the connection to the library's database.
        query: returns the numbers from %s on, in the library's order.
    """

    name: str
    team: Team
    store: Store
    kept: Bare
    query: bytes

    def writing(self, what: str, calls: int, note: str, name: str = "") -> Arm:
        """Return an arm that times a number of writes."""

        def once() -> Sample:
            with costs(self.store) as spent:
                [[answer]] = together((self.team, f"{what}/{calls}", 0.0))
            rows = self.kept.execute(self.query, (answer["first"],)).fetchall()
            written = range(answer["first"], answer["stop"])
            faults = compare(written, [row[0] for row in rows])
            return _sample(answer["times"], faults, spent)

        return Arm(name or self.name, once, note, kind=kind_of(self.name), tier="strict")

    def searching(self, calls: int, note: str) -> Arm:
        """Return an arm that times a number of searches."""

        def once() -> Sample:
            with costs(self.store, sizes=False) as spent:
                [[answer]] = together((self.team, f"search/{calls}", 0.0))
            lost = sum(found != sum(OPEN) for found in answer["found"])
            return _sample(answer["times"], Faults(lost=lost), spent)

        return Arm(self.name, once, note, kind=kind_of(self.name))

    def getting(self, calls: int, note: str) -> Arm:
        """Return an arm that times a number of gets."""

        def once() -> Sample:
            with costs(self.store, sizes=False) as spent:
                [[answer]] = together((self.team, f"get/{calls}", 0.0))
            wanted = [number * 7 % KEYS for number in range(calls)]
            lost = sum(a != b for a, b in zip(wanted, answer["found"], strict=True))
            return _sample(answer["times"], Faults(lost=lost), spent)

        return Arm(self.name, once, note, kind=kind_of(self.name))


def kind_of(name: str) -> Kind:
    """Return the kind of an arm that is called after its library."""
    return "pgmem" if name == "pgmem" else "peer"


@contextlib.contextmanager
def _side(bench: Bench, name: str, query: bytes) -> Iterator[_Side]:
    with bench.postgres.database() as url, bare(url) as kept:
        team = crew(Caller, 1, url) if name == "pgmem" else peer(name, url, payload(0))
        with team as opened:
            yield _Side(name, opened, bench.postgres, kept, query)


PGMEM_EVENTS = (
    b"SELECT (payload->>'n')::bigint AS n FROM pgmem.events WHERE (payload->>'n')::bigint >= %s"
    b" ORDER BY position"
)
PGMEM_PUT = (
    b"SELECT (value->>'n')::bigint AS n FROM pgmem.state"
    b" WHERE key LIKE 'put:%%' AND (value->>'n')::bigint >= %s ORDER BY n"
)
EVENTSOURCING_EVENTS = (
    b"SELECT (convert_from(state, 'UTF8')::json->>'n')::bigint AS n FROM stored_events"
    b" WHERE originator_version >= %s ORDER BY notification_id"
)
LANGGRAPH_PUT = (
    b"SELECT (value->>'n')::bigint AS n FROM store"
    b" WHERE prefix = 'put' AND (value->>'n')::bigint >= %s ORDER BY n"
)

RECORDER = "PostgresApplicationRecorder.insert_events of one event"
# Seen with 9.5.6: if two writers overlap, a running subscription never receives the event of the
# one that took its number first and committed last. So the promise is not equal, and it is no base
# of a target.
FUNCTION = (
    "the same with POSTGRES_ENABLE_DB_FUNCTIONS: one round trip, and no lock on the table, without "
    "which its readers may skip events of writers that overlap"
)
BESIDE_EVENTSOURCING = (
    Comparison("pgmem", "eventsourcing", at_most=0.4),
    Comparison("pgmem", "eventsourcing", figure="p99"),
    Comparison("pgmem", "eventsourcing-functions"),
)


@contextlib.contextmanager
def peer_append(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run `memory.events.append` of one event beside eventsourcing's recorder."""
    calls = 50 if bench.quick else 200
    with (
        _side(bench, "pgmem", PGMEM_EVENTS) as pgmem,
        _side(bench, "eventsourcing", EVENTSOURCING_EVENTS) as recorder,
        _side(bench, "eventsourcing-functions", EVENTSOURCING_EVENTS) as function,
    ):
        yield [
            Scenario(
                "peer_append",
                f"append one event of 200 B, p50, 1 client ({calls} calls a round)",
                "µs",
                [
                    pgmem.writing("append", calls, "memory.events.append, strict"),
                    recorder.writing("append", calls, RECORDER),
                    function.writing("append", calls, FUNCTION),
                ],
                BESIDE_EVENTSOURCING,
                rounds=bench.counted(20, 4),
            )
        ]


@contextlib.contextmanager
def peer_store(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run `put`, `get`, `put_many` and `search` of the state beside LangGraph's PostgresStore."""
    calls = 50 if bench.quick else 200
    with (
        _side(bench, "pgmem", PGMEM_PUT) as pgmem,
        _side(bench, "langgraph", LANGGRAPH_PUT) as langgraph,
    ):
        for side in (pgmem, langgraph):
            together((side.team, f"fill/{KEYS}", 0.0))
            together((side.team, f"fill_docs/{DOCS}", 0.0))
            side.kept.execute("VACUUM ANALYZE")
        yield [
            _beside_langgraph(
                bench,
                "get",
                f"get one entry of 200 B, p50, 1 client ({5 * calls} calls a round)",
                pgmem.getting(5 * calls, "memory.state.get"),
                langgraph.getting(5 * calls, "PostgresStore.get, one connection"),
            ),
            _beside_langgraph(
                bench,
                "put",
                f"put one entry of 200 B, p50, 1 client ({calls} calls a round)",
                pgmem.writing("put", calls, "memory.state.put(record=False), strict"),
                langgraph.writing("put", calls, "PostgresStore.put, one connection"),
            ),
            _beside_langgraph(
                bench,
                "put_ten",
                f"put ten entries of 200 B in one call, p50, 1 client ({calls // 2} calls a round)",
                pgmem.writing("put_ten", calls // 2, "memory.state.put_many(record=False)"),
                pgmem.writing(
                    "put_ten_recorded",
                    calls // 2,
                    "memory.state.put_many, an event for each entry",
                    "pgmem, recorded",
                ),
                langgraph.writing("put_ten", calls // 2, "PostgresStore.batch of ten PutOp"),
            ),
            _beside_langgraph(
                bench,
                "search",
                f"search {DOCS:,} entries of 200 B by one field, {len(OPEN)} match, newest first, "
                f"p50 ({calls // 4} calls a round)",
                pgmem.searching(calls // 4, "memory.state.search(where=, order='updated_at')"),
                langgraph.searching(calls // 4, "PostgresStore.search(filter=)"),
            ),
        ]


def _beside_langgraph(bench: Bench, name: str, title: str, *arms: Arm) -> Scenario:
    return Scenario(
        f"peer_store/{name}",
        title,
        "µs",
        arms,
        [Comparison("pgmem", "langgraph", at_most=0.4)],
        rounds=bench.counted(20, 4),
    )


ENTRIES = (
    Entry(
        "peer_append",
        "append of one event beside eventsourcing's recorder",
        peer_append,
        (30, 10),
        peers=True,
    ),
    Entry(
        "peer_store",
        "get, put, ten puts and a search beside LangGraph's PostgresStore",
        peer_store,
        (70, 30),
        peers=True,
    ),
)
