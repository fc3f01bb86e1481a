"""Check that a group's tables do not grow with its events and that claims read no past events."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from pgmem import Memory
from pgmem.core import statements as sql
from pgmem.events.filter import EventFilter
from pgmem.groups import claim_ops as claims
from pgmem.groups import ops as groups
from tests.support.options import size

MEMBERS, BATCH = 4, 10
TABLES = ("batches", "groups", "delayed")
SMALL = 1024 * 1024
DEAD_ROW = 256
"""Bytes of an event that was given back and taken again, until autovacuum comes by."""


def write_events(url, count, every=1):
    """Write `count` events, each `every`th of them to the stream "work"."""
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(
            "INSERT INTO pgmem.events (stream, type, payload) SELECT CASE WHEN n %% %s = 0 "
            "THEN 'work' ELSE 'other' END, 'job', '{}' FROM generate_series(1, %s) n",
            [every, count],
        )
        server.execute("VACUUM ANALYZE pgmem.events")


def share_out(url, count, ordered_by=None):
    """Four members, each with batches of ten; every twentieth batch is given back once."""

    def work(number):
        done = 0
        while batch := group.read(f"m{number}", BATCH, timeout=0.5):
            if done % 20 == 0 and batch[0].attempts == 1:
                group.nack(batch)
            else:
                group.ack(batch)
                acknowledged.extend(one.event.position for one in batch)
            done += 1

    acknowledged = []
    with Memory(url, pool=MEMBERS + 1) as memory:
        group = memory.groups.create("growing", ordered_by=ordered_by)
        threads = [threading.Thread(target=work, args=(n,)) for n in range(MEMBERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(acknowledged) == list(range(1, count + 1))


def updates(url, table):
    """Return the number of updates and of HOT updates of a table, counted when sessions end."""
    with psycopg.connect(url, autocommit=True) as server:
        return server.execute(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = %s", [table]
        ).fetchone()


@pytest.mark.sized
def test_nothing_grows_with_what_passes_through(database_url):
    count = size(200_000, 5_000)
    write_events(database_url, count)
    share_out(database_url, count)
    with psycopg.connect(database_url, autocommit=True) as server:
        sizes = {
            table: server.execute(f"SELECT pg_total_relation_size('pgmem.{table}')").fetchone()[0]
            for table in TABLES
        }
        batches = server.execute("SELECT count(*) FROM pgmem.batches").fetchone()[0]
    print(count, sizes, batches)
    waiting = sizes.pop("delayed")
    assert max(sizes.values()) < SMALL, sizes
    assert waiting < SMALL + DEAD_ROW * count / 20, waiting
    assert batches <= 2 * MEMBERS + 4
    expected, deadline = count / BATCH, time.monotonic() + 20
    while updates(database_url, "batches")[0] < expected and time.monotonic() < deadline:
        time.sleep(0.1)
    for table in ("batches", "groups"):
        all_of_them, hot = updates(database_url, table)
        print(table, all_of_them, hot)
        assert all_of_them >= expected
        assert hot >= 0.95 * all_of_them, table


def touched(plan) -> int:
    """Return the number of pages that a statement has read."""
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def cost(server, op) -> int:
    """Return the number of pages that an op reads; roll it back."""
    query = sql.statement(op.statement, sql.Dialect("pgmem"), op.fragments)
    with server.transaction(force_rollback=True):
        explain = b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query
        return touched(server.execute(explain, op.params).fetchone()[0][0]["Plan"])


def test_a_claim_costs_the_same_wherever_the_group_stands(database_url):
    """Claim at several positions in 100,000 events and limit the pages read.

    A claim reads neither past events nor far later ones, and of a rare stream only its own.
    """
    write_events(database_url, 100_000, every=500)
    with (
        Memory(database_url) as memory,
        psycopg.connect(database_url, autocommit=True) as server,
    ):
        for ordered_by in (None, "stream"):
            for stream in (None, "work"):
                for position in (0, 50_000, 99_000):
                    name = f"{ordered_by}-{stream}-{position}"
                    memory.groups.create(name, stream=stream, after=position, ordered_by=ordered_by)
                    group = groups.Group(name, EventFilter.of(stream), ordered_by)
                    member = claims.ClaimRequest(group, "m", 10, 30.0, lambda row: row)
                    pages = cost(server, member.claim(100_000))
                    print(name, pages)
                    # An ordered group reads 100 events of the rare stream, each on its own page.
                    most = 600 if ordered_by else 100
                    assert pages < most, f"{name} touched {pages} pages"
