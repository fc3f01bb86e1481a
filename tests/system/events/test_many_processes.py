"""Many processes that follow one log: what one event costs all of them together."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import psycopg

from pgmem import Event, Memory
from tests.support.options import size
from tests.support.processes import Worker, ready
from tests.support.waiting import wait_until

EVENTS = 20

# Counts the statements of the listening connection. The safety poll comes after the test.
READER = """
import json, sys, time
from pgmem import Memory
url, count = sys.argv[1], int(sys.argv[2])
with Memory(url, pool=1, safety_poll=600) as memory:
    with memory.events.subscribe("s", after="now") as events:
        follower, sent = memory._follower, []
        listener, schedule = follower._listener, follower._poller._schedule
        while not (
            memory._reader.buffer.live
            and schedule is follower._poller._schedule  # It is made anew when following begins.
            and not listener.busy
            and schedule.due() > time.monotonic()
        ):
            schedule = follower._poller._schedule
            assert events.receive(timeout=0.05) == []  # Until the first poll is answered.
        real = listener.send
        listener.send = lambda op: (sent.append(op.statement), real(op))
        print(json.dumps("ready"), flush=True); sys.stdin.readline()
        before, got = time.process_time(), []
        while len(got) < count:
            got += [event.payload for event in events.receive(timeout=60)]
        assert got == list(range(count)), got
        used = time.process_time() - before
    print(json.dumps([sent, used]), flush=True)
    sys.stdin.readline()
"""


def server_seconds(url: str) -> dict[int, float]:
    """Return the processor time of each of the server's client processes."""
    seconds = {}
    with psycopg.connect(url) as connection:
        pids = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
        )
        for (pid,) in pids:
            with suppress(FileNotFoundError):  # Another connection of the test has just ended.
                seconds[pid] = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    return seconds


def test_event_costs_no_process_a_statement(database_url):
    count = size(60, 12)
    readers = [Worker(READER, database_url, EVENTS) for _ in range(count)]
    ready(readers)
    with Memory(database_url, pool=1) as memory:
        before = server_seconds(database_url)
        for reader in readers:
            reader.say()
        for n in range(EVENTS):
            memory.events.append("s", Event(type="t", payload=n))
            time.sleep(0.05)
        wait_until(lambda: all(len(reader.lines) > 1 for reader in readers))
        after = server_seconds(database_url)
        server = sum(after[pid] - before[pid] for pid in before.keys() & after.keys())
    client = sum(used for _, (_, used) in (reader.lines[:2] for reader in readers))
    statements = [name for reader in readers for name in reader.lines[1][0]]
    print(
        f"{count} processes, {EVENTS} events: {len(statements)} statements, for one event "
        f"{client / EVENTS * 1000:.1f} ms of client and {server / EVENTS * 1000:.1f} ms of server"
    )
    for reader in readers:
        reader.close_input()
        reader.finish()
    assert statements == []
