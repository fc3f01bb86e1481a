"""Maintenance: what is over is swept, what lives is not touched, and who follows is told."""

from __future__ import annotations

import psycopg
import pytest

from pgmem import Memory
from pgmem.errors import LeaseLost, PermissionDenied, VersionConflict
from pgmem.retention import sweep_ops as ops
from pgmem.retention.models import SweepReport
from tests.support.retention import insert, left, roles, run, store_group

NOTHING = SweepReport(0, 0, 0, 0, 0, 0, 0, True)


def expire(url, table, where="true"):
    column = {"state": "expires_at", "dedupe": "expires_at"}[table]
    run(
        url,
        f"UPDATE pgmem.{table} SET {column} = clock_timestamp() - interval '1 s' WHERE {where}",
    )


def rows(url, table, columns="*"):
    return run(url, f"SELECT {columns} FROM pgmem.{table} ORDER BY 1")


@pytest.fixture
def small_steps(monkeypatch):
    """One page and three rows a statement."""
    monkeypatch.setattr(ops, "PAGES", 1)
    monkeypatch.setattr(ops, "MAX_ROWS", 3)


async def swept(memory, **expected):
    report = await memory.retention.maintain()
    assert report.swept == NOTHING._replace(**expected)
    return report


async def test_trim_without_due_events_removes_nothing(both):
    report = await swept(both)
    assert (report.trimmed.removed, report.trimmed.streams) == (0, ())


async def test_maintain_trims_by_the_policies(both, database_url):
    await both.retention.set(max_events=3)
    await both.retention.set("a", max_age=3600)
    insert(database_url, 10)
    report = await swept(both)
    assert [(stream.stream, stream.removed) for stream in report.trimmed.streams] == [
        (None, 7), ("a", 0)
    ]  # fmt: skip
    assert left(database_url) == [8, 9, 10]


async def test_pass_sets_the_time_of_an_unfinished_trim(both, database_url):
    run(
        database_url,
        "INSERT INTO pgmem.trimmed (stream, position, trimmed_at) VALUES ('s', 1, 'infinity')",
    )
    await swept(both)
    assert rows(database_url, "trimmed", "trimmed_at < clock_timestamp()") == [(True,)]


# idempotency keys


async def test_expired_keys_are_removed(both, database_url):
    for n in range(6):
        await both.dedupe.run_once(f"k{n}", lambda n=n: n, ttl=None if n == 5 else 60)
    claim = await both.dedupe.claim("claimed", lease=60)
    run(
        database_url,
        "UPDATE pgmem.dedupe SET lease_expires_at = clock_timestamp() WHERE key = 'claimed'",
    )
    expire(database_url, "dedupe", "key IN ('k1', 'k3')")
    before = rows(database_url, "dedupe", "key, xmin::text, ctid::text")
    await swept(both, expired_keys=2)
    # What lives has not been written to.
    assert rows(database_url, "dedupe", "key, xmin::text, ctid::text") == [
        row for row in before if row[0] not in ("k1", "k3")
    ]
    assert (await both.dedupe.run_once("k0", lambda: "again")).result == 0
    assert (await both.dedupe.run_once("k1", lambda: "again")).status == "processed"
    await both.dedupe.complete(claim, 1)


async def test_a_claim_of_a_key_that_was_swept_has_a_new_token(both, database_url):
    old = await both.dedupe.claim("k", lease=60)
    await both.dedupe.complete(old, 1, ttl=60)
    expire(database_url, "dedupe")
    await swept(both, expired_keys=1)
    new = await both.dedupe.claim("k", lease=60)
    assert new.token > old.token
    with pytest.raises(LeaseLost):
        await both.dedupe.complete(old, 2)


@pytest.mark.parametrize("table", ["dedupe", "state"])
async def test_locked_row_is_left_to_the_next_sweep(both, database_url, table):
    for n in range(3):
        await both.state.put(f"k{n}", n, ttl=60)
        await both.dedupe.run_once(f"k{n}", lambda: 1, ttl=60)
    expire(database_url, table)
    counted = {"dedupe": "expired_keys", "state": "expired_entries"}[table]
    with psycopg.connect(database_url) as other:
        other.execute(f"UPDATE pgmem.{table} SET expires_at = 'infinity' WHERE key = 'k1'")
        await swept(both, **{counted: 2})
        other.commit()
    await swept(both)
    live = f"SELECT key FROM pgmem.{table} WHERE expires_at = 'infinity'"
    assert run(database_url, live) == [("k1",)]


# state


async def test_expired_entry_becomes_a_tombstone(both, database_url):
    await both.state.put("k", "v", ttl=60)
    await both.state.put("alive", "v", ttl=60)
    await both.state.put("endless", "v")
    async with both.state.watch() as changes:
        expire(database_url, "state", "key = 'k'")
        await swept(both, expired_entries=1)
        (change,) = await changes.receive(timeout=5)
    assert change[:5] == ("k", 2, True, None, None)
    assert change.agent_id == "tester"
    history = await both.state.history("k")
    assert [(event.type, event.stream, event.version) for event in history] == [
        ("state.put", "state:k", 1), ("state.expired", "state:k", 2)
    ]  # fmt: skip
    assert [entry.key for entry in await both.state.list()] == ["alive", "endless"]
    assert rows(database_url, "state", "key, version, value IS NULL, expires_at IS NULL") == [
        ("alive", 1, False, False), ("endless", 1, False, True), ("k", 2, True, True)
    ]  # fmt: skip
    await swept(both)


async def test_versions_go_on_behind_it(both, database_url):
    old = await both.state.put("k", "v", ttl=60)
    expire(database_url, "state")
    await swept(both, expired_entries=1)
    with pytest.raises(VersionConflict):
        await both.state.compare_and_set("k", "late", expected_version=old.version)
    assert (await both.state.create("k", "new")).version == 3


@pytest.mark.parametrize(("recording", "told"), [(0, 0), (1, 1), (2, 1)])
async def test_expiry_is_recorded_if_the_change_before_was(both, database_url, recording, told):
    await both.state.put("k", "v", ttl=60, record=False)
    run(database_url, "UPDATE pgmem.state SET recording = %s", [recording])
    expire(database_url, "state")
    await swept(both, expired_entries=1)
    assert len(await both.state.history("k")) == told
    assert rows(database_url, "state", "version, recording") == [(2, recording)]


async def test_entry_with_an_end_is_not_cached(form, database_url):
    async with form.memory(cache=10) as cached, form.memory() as memory:
        await cached.state.put("k", "v", ttl=60)
        assert (await cached.state.get("k")).value == "v"
        expire(database_url, "state")
        await swept(memory, expired_entries=1)
        assert await cached.state.get("k") is None
        await memory.state.put("k", "new")
        assert (await cached.state.get("k")).version == 3


async def test_a_snapshot_from_before_restores_it(both, database_url):
    await both.state.put("k", "v", ttl=60)
    taken = await both.state.snapshots.take()
    expire(database_url, "state")
    await swept(both, expired_entries=1)
    assert await both.state.snapshots.restore(taken.id) == (1, 0)
    assert (await both.state.get("k")).version == 3


# leases and limits


async def test_unused_leases_are_removed(both, database_url):
    run(
        database_url,
        """
        INSERT INTO pgmem.leases (name, owner_id, acquired_at, expires_at, waiters) VALUES
            ('held', 'o', now() - interval '9 d', now() + interval '1 s', '[]'),
            ('just free', NULL, now() - interval '9 d', now() - interval '1 h', '[]'),
            ('waited for', 'o', now() - interval '9 d', now() - interval '2 d',
             jsonb_build_array(jsonb_build_object(
                 'id', 'w', 'until', extract(epoch FROM now() + interval '1 h')))),
            ('long free', NULL, now() - interval '9 d', now() - interval '25 h', '[]'),
            ('never ended', NULL, now() - interval '9 d', NULL, '[]'),
            ('its holder died', 'o', now() - interval '9 d', now() - interval '2 d', '[]'),
            ('its waiter died', 'o', now() - interval '9 d', now() - interval '2 d',
             '[{"id": "w", "until": 5}]')
        """,
    )
    await swept(both, leases=4)
    assert rows(database_url, "leases", "name") == [("held",), ("just free",), ("waited for",)]


async def test_unused_limits_are_removed(both, database_url):
    run(
        database_url,
        "INSERT INTO pgmem.limits VALUES ('used', now() + interval '1 s'), "
        "('today', now() - interval '23 h'), ('long ago', now() - interval '25 h')",
    )
    await swept(both, limits=1)
    assert rows(database_url, "limits", "name") == [("today",), ("used",)]


async def test_idle_empty_batches_are_removed(both, database_url):
    for group in ("g", "h"):
        store_group(database_url, 0, group)
    run(
        database_url,
        """
        INSERT INTO pgmem.batches (group_name, positions, claimed_at)
            SELECT 'g', CASE WHEN n % 3 = 0 THEN '{7}'::bigint[] ELSE '{}' END,
                   now() - CASE WHEN n = 20 THEN interval '1 s' ELSE interval '1 h' END
            FROM generate_series(1, 20) n ORDER BY n;
        INSERT INTO pgmem.batches (group_name) VALUES ('h'), ('h')
        """,
    )
    await swept(both, batches=9)
    assert rows(database_url, "batches", "id, group_name, cardinality(positions)") == [
        (1, "g", 0), (2, "g", 0), (3, "g", 1), (4, "g", 0), (5, "g", 0), (6, "g", 1), (9, "g", 1),
        (12, "g", 1), (15, "g", 1), (18, "g", 1), (20, "g", 0), (21, "h", 0), (22, "h", 0),
    ]  # fmt: skip


# snapshots


async def test_fold_snapshots_are_removed_by_their_policies(both, database_url):
    run(
        database_url,
        """
        INSERT INTO pgmem.fold_snapshots (name, fold_version, position, value, taken_at)
            SELECT name, version, n, '1', now() - (10 - n) * interval '1 d'
            FROM generate_series(1, 9) n, unnest('{a,b,c}'::text[]) name,
                 generate_series(1, 2) version
        """,
    )
    await swept(both)
    await both.retention.set_folds("a", max_count=2)
    await both.retention.set_folds("b", max_age=3.5 * 86_400)
    await swept(both, folds=2 * 7 + 2 * 6)
    kept = "SELECT name, array_agg(position ORDER BY position) FROM pgmem.fold_snapshots " \
        "WHERE fold_version = {} GROUP BY name ORDER BY name"  # fmt: skip
    for version in (1, 2):
        assert run(database_url, kept.format(version)) == [
            ("a", [8, 9]), ("b", [7, 8, 9]), ("c", list(range(1, 10)))
        ]  # fmt: skip
    await both.retention.set_folds(max_age=1)
    await both.retention.remove("b", kind="folds")
    await swept(both, folds=2 * 2 + 2 * 8)  # The newest stays, however old it is.
    assert run(database_url, kept.format(1)) == [("a", [8, 9]), ("b", [9]), ("c", [9])]
    assert (await both.folds.load("c")).position == 9


async def test_snapshots_are_removed_by_their_policies(both, database_url):
    await both.state.put("k", 1)
    for name in ("a", None, "b", "a", None, "b", "a", None, "b"):
        await both.state.snapshots.take(name)
    run(
        database_url,
        "UPDATE pgmem.state_snapshots SET taken_at = now() - (10 - id) * interval '1 d'",
    )
    await swept(both)
    await both.retention.set_snapshots("a", max_count=2)
    await both.retention.set_snapshots(max_age=5.5 * 86_400)
    await swept(both, snapshots=3)
    assert [taken.id for taken in await both.state.snapshots.list()] == [9, 8, 7, 6, 5, 4]
    await both.retention.set_snapshots(max_age=1)
    await swept(both, snapshots=2)
    assert [taken.id for taken in await both.state.snapshots.list()] == [9, 8, 7, 4]
    assert rows(database_url, "state_snapshot_entries", "snapshot_id") == [(4,), (7,), (8,), (9,)]


# a part at a time


@pytest.mark.usefixtures("small_steps")
async def test_large_tables_are_swept_in_parts(both, database_url):
    run(
        database_url,
        "INSERT INTO pgmem.dedupe (kind, key, expires_at) SELECT 'work', 'k' || n, "
        "CASE WHEN n % 100 = 0 THEN now() END FROM generate_series(1, 4000) n",
    )
    (pages,) = run(database_url, "SELECT pg_relation_size('pgmem.dedupe') / 8192")[0]
    assert pages > 30
    reports = [(await both.retention.maintain()).swept for _ in range(10)]
    assert not reports[0].complete
    assert sum(report.expired_keys for report in reports) == 40
    assert max(report.expired_keys for report in reports) < 20
    assert run(database_url, "SELECT count(*) FROM pgmem.dedupe") == [(3960,)]


@pytest.mark.usefixtures("small_steps")
async def test_many_on_one_page_are_swept_in_parts(both, database_url):
    for n in range(20):
        await both.state.put(f"k{n}", n, ttl=60)
    expire(database_url, "state")
    await swept(both, expired_entries=20)
    assert len(await both.events.read(type="state.expired")) == 20


@pytest.mark.usefixtures("small_steps")
def test_first_sweep_of_a_process_begins_at_a_random_page(database_url):
    run(
        database_url,
        "INSERT INTO pgmem.dedupe (kind, key, expires_at) SELECT 'work', 'k' || n, now() "
        "FROM generate_series(1, 4000) n",
    )
    further_on = "SELECT count(*) FROM pgmem.dedupe WHERE ctid >= '(5,0)'"
    before = run(database_url, further_on)
    for _ in range(8):
        with Memory(database_url) as memory:
            assert memory.retention.maintain().swept.expired_keys > 0
    assert run(database_url, further_on) < before


@pytest.mark.parametrize("table", ops.TABLES)
def test_sweep_reads_its_pages_only(memory, database_url, table):
    from pgmem.core import statements as sql

    run(
        database_url,
        "INSERT INTO pgmem.dedupe (kind, key) "
        "SELECT 'work', 'k' || n FROM generate_series(1, 9999) n;"
        "INSERT INTO pgmem.state (key, version) SELECT 'k' || n, 1 FROM generate_series(1,9999) n;"
        "INSERT INTO pgmem.leases (name) SELECT 'k' || n FROM generate_series(1,9999) n;"
        "INSERT INTO pgmem.limits SELECT 'k' || n, now() FROM generate_series(1,9999) n",
    )
    op = ops.sweep(table, 0, agent_id=None)
    query = b"EXPLAIN " + sql.statement(op.statement, sql.Dialect("pgmem"), op.fragments)
    plan = "\n".join(row[0] for row in run(database_url, query, op.params))
    assert "Tid Range Scan on" in plan
    assert "Seq Scan on" not in plan


async def test_role_without_the_right_may_not_sweep(form, database_url):
    with roles(database_url) as url_of:
        for kind in ("reader", "agent"):
            async with form.memory(url_of(kind)) as memory:
                with pytest.raises(PermissionDenied, match="--janitor"):
                    await memory.retention.maintain()
        insert(database_url, 5)
        async with form.memory(url_of("janitor")) as memory:
            for n in range(3):
                await memory.state.put(f"k{n}", n, ttl=60)
                await memory.dedupe.run_once(f"k{n}", lambda: 1, ttl=60)
                await memory.state.snapshots.take()
                await memory.folds.save("f", n, position=n)
            run(database_url, "INSERT INTO pgmem.limits VALUES ('l', 'epoch')")
            run(
                database_url,
                "INSERT INTO pgmem.leases (name, acquired_at) VALUES ('l', 'epoch');"
                "INSERT INTO pgmem.batches (group_name) SELECT 'g' FROM generate_series(1, 5)",
            )
            expire(database_url, "state")
            expire(database_url, "dedupe")
            await memory.retention.set(max_events=2)
            await memory.retention.set_folds(max_count=1)
            await memory.retention.set_snapshots(max_count=1)
            report = await memory.retention.maintain()
    assert report.swept == SweepReport(3, 3, 1, 1, 1, 2, 2, True)
    assert report.trimmed.removed == 6
