"""`memory.stats()`: true numbers, at a cost that does not grow, of what the role may see."""

from __future__ import annotations

import dataclasses
import random
import time
import uuid
from datetime import timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgmem import Event, Memory, migrate
from pgmem.admin import stats_ops as ops
from pgmem.admin.stats_models import Count
from pgmem.core.names import SCHEMA_REVISION

NOTHING = Count(0)


def sql(url, *statements):
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def log_of(url, ages, *, first=1):
    """Insert events of the given ages in seconds, at consecutive positions."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO pgmem.events (position, stream, type, payload, recorded_at) "
            "SELECT %s - 1 + n, 's', 't', '0', clock_timestamp() - make_interval(secs => age) "
            "FROM unnest(%s::float8[]) WITH ORDINALITY AS given (age, n)",
            (first, ages),
        )
        connection.execute(
            "SELECT setval('pgmem.events_position_seq', max(position)) FROM pgmem.events"
        )


def remove(url, condition):
    """Remove events, as retention may."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "SELECT set_config('retention.trimming', pg_current_xact_id()::text, true)"
        )
        connection.execute(f"DELETE FROM pgmem.events WHERE {condition}")


async def test_an_empty_memory(both):
    stats = await both.stats()
    log = stats.log
    assert (log.head, log.first, log.last, log.trimmed_to, log.removed) == (0, None, None, 0, 0)
    assert log.events == log.last_minute == log.last_hour == NOTHING
    assert dataclasses.astuple(stats.state) == dataclasses.astuple(stats.dedupe) == ((0, True),) * 3
    assert stats.snapshots.states == stats.snapshots.folds == NOTHING
    assert (stats.subscriptions.total, stats.groups.furthest, stats.leases.held) == (0, (), 0)
    assert (stats.policies, stats.writers, stats.hidden) == ((), (), ())


async def test_the_server_and_its_tables(both, database_url):
    await both.events.append("s", [Event(type="t", payload="x" * 1000)] * 50)
    sql(database_url, "ANALYZE pgmem.events")
    stats = await both.stats()
    server = stats.server
    with psycopg.connect(database_url) as connection:
        assert server.version == connection.info.parameter_status("server_version")
    assert (server.standby, server.revision, server.durability) == (
        False,
        SCHEMA_REVISION,
        "strict",
    )
    assert (server.synchronous_commit, server.fsync) in {("on", "off"), ("on", "on")}
    tables = {table.name: table for table in stats.tables}
    assert {"events", "state", "dedupe", "groups", "leases", "policies"} <= tables.keys()
    assert tables["events"].table_bytes > 50_000
    assert tables["events"].index_bytes > tables["limits"].index_bytes
    async with both_relaxed(both, database_url) as relaxed:
        assert (await relaxed.stats()).server.durability == "relaxed"


def both_relaxed(memory, url):
    from tests.support.both import Awaited, Both

    form = "sync" if isinstance(memory, Awaited) else "async"
    return Both(form, url).memory(durability="relaxed")


async def test_state_dedupe_and_snapshots_are_counted(both):
    for n in range(5):
        await both.state.put(f"k{n}", n)
    await both.state.put("ends", 0, ttl=60)
    for n in range(2):
        await both.state.put(f"over{n}", n, ttl=0.001)
    for n in range(3):
        await both.state.delete(f"k{n}")
    await both.dedupe.claim("held", lease=60)
    await both.dedupe.claim("late", lease=0.001)
    claim = await both.dedupe.claim("done", lease=60)
    await both.dedupe.complete(claim, 1)
    await both.events.append("s", Event(type="t"), idempotency_key="a", ttl=0.001)
    await both.state.snapshots.take()
    for position in (1, 2):
        await both.folds.save("f", 0, position=position)
    stats = await both.stats()
    assert dataclasses.astuple(stats.state) == ((3, True), (3, True), (2, True))
    assert dataclasses.astuple(stats.dedupe) == ((4, True), (1, True), (1, True))
    assert dataclasses.astuple(stats.snapshots) == ((1, True), (2, True))


async def test_large_tables_are_counted_in_a_share_of_their_pages(both, database_url, monkeypatch):
    sql(
        database_url,
        "INSERT INTO pgmem.state (key, value, version) SELECT 'k' || n, "
        "CASE WHEN n % 4 > 0 THEN to_json(repeat('x', 500)) END, 1 FROM generate_series(1, 6000) n",
    )
    exact = (await both.stats()).state
    assert dataclasses.astuple(exact) == ((4500, True), (1500, True), (0, True))
    monkeypatch.setattr(ops, "SAMPLE_PAGES", 30)
    sampled = (await both.stats()).state
    assert not sampled.entries.exact
    # Of some 330 pages: a sixth of it is the standard deviation.
    assert 1200 < sampled.entries.value < 9000
    assert 400 < sampled.deleted.value < 3000


@pytest.mark.parametrize("seed", range(4))
async def test_the_events_of_a_minute_and_an_hour(both, database_url, seed):
    rng = random.Random(seed)
    ages = sorted((10 ** rng.uniform(0, 5) for _ in range(rng.randrange(1, 300))), reverse=True)
    # None so near an edge that the clock's going on could move it over.
    ages = [age for age in ages if min(abs(age - 60), abs(age - 3600)) > 5]
    log_of(database_url, ages, first=rng.choice([1, 1000]))
    remove(database_url, f"position % {rng.randrange(2, 9)} = 1 AND position % 10 > 3")
    log = (await both.stats()).log
    with psycopg.connect(database_url) as connection:
        true = connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE age < 60), count(*) FILTER (WHERE age < 3600),"
            " min(position), max(position) FROM (SELECT position, "
            "extract(epoch FROM clock_timestamp() - recorded_at) AS age FROM pgmem.events) AS e"
        ).fetchone()
    found = [log.events, log.last_minute, log.last_hour]
    assert (*(count.value for count in found), log.first, log.last) == true, seed
    assert all(count.exact for count in found)


async def test_a_long_log_is_counted_in_parts(both, database_url, monkeypatch):
    monkeypatch.setattr(ops, "MOST_COUNTED", 1000)
    log_of(database_url, [100_000.0] * 10_000 + [1000.0] * 9_500 + [1.0] * 500)
    log = (await both.stats()).log
    assert log.events == Count(20_000, exact=False)
    assert log.last_hour == Count(10_000, exact=False)
    assert log.last_minute == Count(500)
    remove(database_url, "position % 2 = 1")
    assert (await both.stats()).log.events == Count(10_000, exact=False)


async def test_stats_of_trims(both, database_url):
    log_of(database_url, [100.0] * 20)
    remove(database_url, "position <= 10 AND position <> 4")
    sql(
        database_url,
        "INSERT INTO pgmem.trimmed (stream, position, trimmed_at, removed) VALUES "
        "('', 10, '2026-01-02 00:00+00', 9), ('a', 7, '2026-01-03 00:00+00', 2), "
        "('b', 3, 'infinity', 4)",
    )
    log = (await both.stats()).log
    assert (log.trimmed_to, log.trimmed_streams, log.removed) == (10, 2, 15)
    assert (log.trimmed_at.month, log.trimmed_at.day) == (1, 3)
    assert (log.first, log.last, log.events) == (11, 20, Count(11))
    assert log.last_hour == Count(10), "events kept below the low-water mark are not counted by age"


async def test_lag_of_subscriptions_and_groups(both, database_url):
    log_of(database_url, [500.0 - n for n in range(10)])
    sql(
        database_url,
        "INSERT INTO pgmem.subscriptions (name, filter, position, owner, expires_at, "
        "system_identifier, timeline) VALUES ('done', '{}', 10, NULL, NULL, 1, 1), "
        "('late', '{}', 4, 'me', clock_timestamp() + interval '1 h', 1, 1)",
        "INSERT INTO pgmem.groups (name, filter, max_attempts, position, system_identifier, "
        "timeline) VALUES ('g', '{}', 5, 8, 1, 1), ('idle', '{}', 5, 10, 1, 1)",
        "INSERT INTO pgmem.batches (group_name, positions, member, expires_at) VALUES "
        "('g', '{1,2,3}', 'a', clock_timestamp() + interval '1 h'), "
        "('g', '{5,6}', 'b', clock_timestamp() - interval '1 s'), ('g', '{}', NULL, NULL)",
        "INSERT INTO pgmem.delayed (group_name, position, attempts, available_at) "
        "VALUES ('g', 7, 1, clock_timestamp())",
        "INSERT INTO pgmem.dead_letters (group_name, position, attempts) VALUES ('g', 4, 5)",
    )
    stats = await both.stats()
    assert stats.subscriptions.total == 2
    late, done = stats.subscriptions.furthest
    assert (late.name, late.position, late.distance, late.owner) == ("late", 4, 6, "me")
    assert late.expires_at > stats.server.now
    assert timedelta(seconds=496) <= stats.server.now - late.behind_since < timedelta(seconds=700)
    assert (done.name, done.distance, done.behind_since, done.owner) == ("done", 0, None, None)
    group, idle = stats.groups.furthest
    assert (group.name, group.position, group.distance) == ("g", 8, 2)
    assert (group.open, group.overdue, group.delayed, group.dead) == (5, 2, Count(1), Count(1))
    assert timedelta(seconds=4) <= group.behind_since - late.behind_since < timedelta(seconds=5)
    assert (idle.name, idle.open, idle.behind_since, idle.dead) == ("idle", 0, None, NOTHING)


async def test_furthest_behind_are_listed_and_counts_are_limited(both, database_url, monkeypatch):
    monkeypatch.setattr(ops, "MOST_READERS", 3)
    monkeypatch.setattr(ops, "MOST_DELAYED", 10)
    sql(
        database_url,
        "INSERT INTO pgmem.subscriptions (name, filter, position, system_identifier, timeline) "
        "SELECT 'c' || n, '{}', 100 - n, 1, 1 FROM generate_series(1, 20) n",
        "INSERT INTO pgmem.groups (name, filter, max_attempts, position, system_identifier, "
        "timeline) VALUES ('g', '{}', 5, 0, 1, 1)",
        "INSERT INTO pgmem.dead_letters (group_name, position, attempts) "
        "SELECT 'g', n, 5 FROM generate_series(1, 50) n",
    )
    stats = await both.stats()
    assert stats.subscriptions.total == 20
    assert [c.name for c in stats.subscriptions.furthest] == ["c20", "c19", "c18"]
    assert stats.groups.furthest[0].dead == Count(11, exact=False)


async def test_leases_and_policies(both, database_url):
    sql(
        database_url,
        "INSERT INTO pgmem.leases (name, owner_id, expires_at, waiters) VALUES "
        "('held', 'a', clock_timestamp() + interval '1 h', jsonb_build_array("
        "jsonb_build_object('until', extract(epoch FROM clock_timestamp()) + 60), "
        "jsonb_build_object('until', extract(epoch FROM clock_timestamp()) - 60))), "
        "('over', 'b', clock_timestamp() - interval '1 s', '[]'), ('free', NULL, NULL, '[]')",
        "INSERT INTO pgmem.policies (kind, name, max_count, max_age) VALUES "
        "('folds', 'f', 3, NULL), ('events', '', NULL, 60)",
    )
    stats = await both.stats()
    assert (stats.leases.held, stats.leases.waiters) == (1, 1)
    assert [dataclasses.astuple(policy) for policy in stats.policies] == [
        ("events", None, None, 60.0), ("folds", "f", 3, None),
    ]  # fmt: skip


async def test_open_writers_are_listed_oldest_first(both, database_url):
    url = make_conninfo(database_url, application_name="forgetful")
    append = "INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '0')"
    with psycopg.connect(url) as open_one, psycopg.connect(database_url) as reading:
        open_one.execute(append)
        reading.execute("SELECT count(*) FROM pgmem.events")
        with psycopg.connect(database_url, autocommit=True) as preparing:
            preparing.execute("BEGIN")
            preparing.execute(append)
            preparing.execute("PREPARE TRANSACTION 'forgotten'")
            try:
                stats = await both.stats()
            finally:
                preparing.execute("ROLLBACK PREPARED 'forgotten'")
        pid = open_one.info.backend_pid
    first, second = stats.writers
    assert (first.pid, first.name, first.state) == (pid, "forgetful", "idle in transaction")
    assert (second.pid, second.name, second.state) == (None, "forgotten", None)
    assert first.since < second.since < stats.server.now
    assert first.role == second.role
    assert (await both.stats()).writers == ()


async def test_usage_of_the_notification_queue(both, database_url):
    # The whole server has one queue: other tests notify at the same time.
    usage = "SELECT pg_notification_queue_usage()"
    for _ in range(100):
        with psycopg.connect(database_url) as connection:
            before = connection.execute(usage).fetchone()[0]
            told = (await both.stats()).sessions.queue_usage
            connection.rollback()
            after = connection.execute(usage).fetchone()[0]
        if before == after:
            assert told == before
            return
    pytest.fail("the queue never stood still")


async def test_sessions_are_counted(both):
    before = (await both.stats()).sessions
    assert (before.of_pgmem, before.listening) == (1, 0)
    assert before.in_database <= before.on_server <= before.most
    async with both.events.subscribe():
        deadline = time.monotonic() + 10
        while (sessions := (await both.stats()).sessions).listening == 0:
            assert time.monotonic() < deadline, "no session listens"
    assert (sessions.of_pgmem - before.of_pgmem, sessions.listening) == (1, 1)


async def test_a_role_sees_what_it_may_and_what_it_may_not_is_named(form, database_url):
    role = f"reader_{uuid.uuid4().hex[:8]}"
    sql(database_url, f"CREATE ROLE {role}")
    migrate.grant(database_url, reader=role)
    append = "INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '0')"
    try:
        with Memory(database_url) as memory:
            memory.state.put("k", 1)
        url = make_conninfo(database_url, options=f"-c role={role}")
        async with form.memory(url) as reader:
            with psycopg.connect(database_url) as writer:
                writer.execute(append)
                stats = await reader.stats()
    finally:
        sql(database_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert stats.hidden == ("dedupe", "subscriptions", "groups", "leases")
    assert (stats.dedupe, stats.subscriptions, stats.groups, stats.leases) == (None,) * 4
    assert (stats.log.events, stats.state.entries) == (Count(1), Count(1))
    (writer,) = stats.writers
    assert writer.pid is not None
    assert (writer.state, writer.since) == (None, None), "those of others are not shown"
