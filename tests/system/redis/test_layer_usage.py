"""The published code's own usage runs on `pgmem.redis` as it does on Redis.

One program uses the bytes that a Redis client returns. It runs twice, with another import and
constructor.
"""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest

from benchmarks.arms import published
from pgmem import Memory

PROGRAM = """
import json
import threading
IMPORT


class Payments(SharedMemoryLayer):
    def _do_actual_work(self, event):
        if event["amount"] > 1_000_000:
            raise ValueError("too much")
        return {"status": "ok", "amount": event["amount"]}


shared = Payments(CONSTRUCTOR)

# The validator
for number in range(250):
    payload = {"id": f"p-{number}", "amount": number}
    shared.write_event("validator", "payment.validated", payload)
shared.write_event("validator", "payment.refused", {"id": "p-x", "reason": "số dư"})

# The processor: catches up page by page, then waits for what comes.
def follow(last_id, wanted):
    while wanted > 0:
        for stream, entries in shared.read_events(last_id, count=100):
            assert stream == b"agent:events"
            for event_id, fields in entries:
                last_id = event_id
                wanted -= 1
                yield event_id, fields

seen = list(follow("0", 251))
last_id = seen[-1][0].decode()
mail = ("notifier", "mail.sent", {"to": "a"})
threading.Timer(0.05, shared.write_event, mail).start()
seen += follow(last_id, 1)
for event_id, fields in seen:
    who, what = fields[b"agent_id"].decode(), fields[b"event_type"].decode()
    show("event", who, what, json.loads(fields[b"payload"]))
show("a page", len(shared.read_events()[0][1]))
show("fields", sorted(seen[0][1]), type(seen[0][0]).__name__)

# The latest state
show("state", shared.get_latest_state("validator", "payment.validated"))
show("state", shared.get_latest_state("validator", "payment.refused"))
show("state", shared.get_latest_state("absent", "payment.validated"))

# Work that is done once
for event in ({"id": "p-1", "amount": 5}, {"id": "p-2", "amount": 7}, {"id": "p-1", "amount": 5}):
    show("processed", shared.process_event(event))
for _ in range(2):
    try:
        shared.process_event({"id": "p-3", "amount": 2_000_000})
    except ValueError as error:
        show("failed", str(error))
for event_id, fields in seen[:2] + seen[:1]:
    event = {**json.loads(fields[b"payload"]), "id": event_id}
    show("processed", shared.process_event(event))

# A versioned update
def open_account(current):
    assert current == {}
    return {"balance": 100, "currency": "VND", "rate": 0.5}

show("updated", shared.update_with_version("account:1", open_account))
show("updated", shared.update_with_version("account:2", lambda current: {"n": 1}, max_retries=5))
assert issubclass(ConcurrentModificationError, Exception)

show("snapshot", shared.take_snapshot())
"""


def run(imported: str, constructor: str, names: dict):
    """Run the program. Return what it showed, and its layer."""
    shown: list = []
    program = PROGRAM.replace("IMPORT", imported).replace("CONSTRUCTOR", constructor)
    names = {**names, "show": lambda *what: shown.append(what), "__name__": "usage"}
    exec(compile(program, "usage", "exec"), names)
    return shown, names["shared"]


@pytest.fixture
def on_redis(redis_url, client, database_url):
    """The output of the program on Redis."""
    with closing(published.connect(redis_url)) as patient, psycopg.connect(database_url) as owner:
        owner.execute(published.SNAPSHOTS_TABLE)
        yield run(
            "from benchmarks.arms.published import ConcurrentModificationError\n"
            "from benchmarks.arms.published import Published as SharedMemoryLayer",
            "redis_client, database=database",
            {"redis_client": patient, "database": owner},
        )[0]
        assert owner.execute("SELECT count(*) FROM agent_snapshots").fetchone() == (3,)
        owner.execute("DROP TABLE agent_snapshots")


def test_the_published_usage_runs_unchanged(on_redis, database_url):
    shown, layer = run(
        "from pgmem.redis import ConcurrentModificationError, SharedMemoryLayer",
        "url",
        {"url": database_url},
    )
    layer.close()
    assert shown == on_redis
    assert len(shown) == 252 + 2 + 3 + 3 + 2 + 3 + 2 + 1
    with Memory(database_url) as memory:
        (snapshot,) = memory.state.snapshots.list("agent:state")
        kept = {entry.key: entry.value for entry in memory.state.snapshots.entries(snapshot.id)}
    assert kept["agent:state:notifier:mail.sent"] == {"to": "a"}
    assert kept["resource:account:1"]["version"] == "1"


def test_the_program_names_neither_redis_nor_pgmem():
    assert "redis" not in PROGRAM.lower()
    assert "pgmem" not in PROGRAM
    assert (PROGRAM.count("IMPORT"), PROGRAM.count("CONSTRUCTOR")) == (1, 1)
