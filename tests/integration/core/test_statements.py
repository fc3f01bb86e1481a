"""The statements: well-formed, fully qualified, and served by an index."""

from __future__ import annotations

import datetime
import re
import time

import psycopg
import pytest

from pgmem.admin import stats_ops as stats
from pgmem.core import statements as sql
from pgmem.core.history import History
from pgmem.core.op import Op
from pgmem.dedupe import ops as dedupe
from pgmem.dedupe.models import Claim
from pgmem.events import durable_ops as subscriptions
from pgmem.events import ops as events
from pgmem.events import read_ops
from pgmem.events.filter import EventFilter
from pgmem.events.stable_position import read_positions
from pgmem.groups import claim_ops as claims
from pgmem.groups import delivery_ops as deliveries
from pgmem.groups import ops as groups
from pgmem.groups import prefetch_ops
from pgmem.leases import ops as leases
from pgmem.retention import ops as retention
from pgmem.state import read_ops as state
from pgmem.state import snapshot_ops as snapshots
from pgmem.state import write_ops as writes
from pgmem.state.write_ops import Lifetime, Recording
from tests.support.server import TEMPLATE, fresh_database

CODEC = events.Codec()
INCLUDE = re.compile(r"\{include (\w+)\}")
PIECES = {piece for name in sql.names() for piece in INCLUDE.findall(sql.source(name))}
TABLES = {
    "events", "state", "dedupe", "meta", "fold_snapshots", "state_snapshots",
    "state_snapshot_entries", "pgmem_version", "events_position_seq", "subscriptions", "trimmed",
    "groups", "batches", "delayed", "dead_letters", "leases", "limits", "policies",
    "imports",
}  # fmt: skip
INSIDE = {
    "dedupe_record_result", "dedupe_remove_record", "optimistic_receipt", "trim_remove",
}  # fmt: skip
"""Statements that are executed only inside a transaction, which has its own durability."""

MARKS = (
    ("filter", ""), ("direction", "ASC"), ("trimmed", ""), ("name", ""), ("due", "true"),
    ("first", "true"), ("ready", "true"), ("acked", "true"), ("stale", "false"), ("after", ""),
    ("settled", ""), ("overtaken", "false"),
    ("key", "found.stream"), ("vacuumed", "events"), ("among", ""), ("order", "key"),
)  # fmt: skip


def dialects():
    for notify in sql.NOTIFY:
        for relaxed in (True, False):
            yield sql.Dialect("some_schema", "pgmem_channel", notify, relaxed)


@pytest.mark.parametrize("name", [name for name in sql.names() if name not in PIECES])
def test_every_mark_is_filled_and_every_name_qualified(name):
    for dialect in dialects():
        text = sql.statement(name, dialect, MARKS).decode()
        assert "{" not in text.replace("'{}'", "")
        for table in re.findall(r"(?:FROM|JOIN|INTO|UPDATE)\s+([\w.\"]+)", text):
            bare = table.replace('"', "").split(".")
            assert bare[-1] not in TABLES or bare[0] == "some_schema", (name, table)
        assert "--" not in text


@pytest.mark.parametrize("name", sql.names())
def test_every_file_says_what_it_is_for(name):
    assert sql.source(name).startswith("-- ")


def whole(name):
    """Return a statement's text with the pieces that it includes."""
    return INCLUDE.sub(lambda found: whole(found[1]), sql.source(name))


@pytest.mark.parametrize("name", [name for name in sql.names() if name not in PIECES])
def test_what_writes_can_be_relaxed_and_what_appends_notifies(name):
    shared = whole(name)
    inside = name in INSIDE
    writes = re.search(r"\b(INSERT INTO|UPDATE \{|DELETE FROM)", shared)
    assert ("{commit}" in shared) == bool(writes and not inside)
    assert ("{notify}" in shared) == ("INTO {schema}.events" in shared)


def share_out(connection):
    """Add groups that lag far behind, with open deliveries."""
    connection.execute(
        "INSERT INTO pgmem.groups (name, filter, max_attempts, position, system_identifier, "
        "timeline) SELECT 'g' || n, '{}', 5, 15000, s.system_identifier, c.timeline_id "
        "FROM generate_series(1, 2000) n, pg_control_system() s, pg_control_checkpoint() c"
    )
    connection.execute(
        "INSERT INTO pgmem.batches (group_name, member, expires_at, positions) "
        "SELECT 'g' || n % 2000, 'c', now() + interval '1 h', array[n] "
        "FROM generate_series(1, 8000) n"
    )
    connection.execute(
        "INSERT INTO pgmem.delayed (group_name, position, key, attempts, available_at) "
        "SELECT 'g' || n % 2000, n, 'k' || n % 5, 1, now() + interval '1 h' "
        "FROM generate_series(1, 20000) n"
    )
    connection.execute(
        "INSERT INTO pgmem.dead_letters (group_name, position, attempts) "
        "SELECT 'g' || n % 2000, n, 5 FROM generate_series(1, 20000) n"
    )
    connection.execute("VACUUM ANALYZE pgmem.groups, pgmem.batches, pgmem.delayed")
    connection.execute("VACUUM ANALYZE pgmem.dead_letters")


@pytest.fixture(scope="module")
def loaded(pg_server_url):
    """20,000 events and entries, analyzed: enough for a wrong plan to show. Only looked at."""
    with (
        fresh_database(pg_server_url, TEMPLATE) as url,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        connection.execute(
            "INSERT INTO pgmem.events (stream, stream_version, type, agent_id, payload, "
            "state_key, state_version) SELECT 's' || n % 500, NULL, 't' || n % 300, "
            "'a' || n % 300, '1', 'k' || n % 500, n FROM generate_series(1, 20000) n"
        )
        connection.execute(
            "INSERT INTO pgmem.events (stream, stream_version, type, payload) "
            "SELECT 'v' || n % 10, n, 'v', '1' FROM generate_series(1, 5000) n"
        )
        connection.execute(
            "INSERT INTO pgmem.state (key, value, version) "
            "SELECT 'k' || n, '1', 1 FROM generate_series(1, 20000) n"
        )
        connection.execute(
            "INSERT INTO pgmem.dedupe (kind, key) SELECT 'work', 'k' || n "
            "FROM generate_series(1, 20000) n"
        )
        connection.execute(
            "INSERT INTO pgmem.subscriptions (name, filter, position, system_identifier, timeline) "
            "SELECT 'k' || n, '{}', 0, 1, 1 FROM generate_series(1, 20000) n"
        )
        connection.execute(
            "INSERT INTO pgmem.leases (name, owner_id, owner, expires_at) "
            "SELECT 'k' || n, 'o', 'h', clock_timestamp() + interval '1 h' "
            "FROM generate_series(1, 20000) n"
        )
        connection.execute(
            "VACUUM ANALYZE pgmem.events, pgmem.state, pgmem.dedupe, pgmem.subscriptions, "
            "pgmem.leases"
        )
        share_out(connection)
        yield connection


def read(after=0, **selection) -> Op:
    return read_ops.read(EventFilter.of(**selection), after=after, limit=100)


HELD = subscriptions.Ownership("k7", 7, 0, datetime.datetime(2026, 1, 1), History(1, 1))
ASKER = leases.LeaseRequest("k7", "o", "h", 5.0)
LEASE = leases.Held("k7", "o", 7, 5.0)


def member(ordered_by=None, **selection) -> claims.ClaimRequest:
    group = groups.Group("g7", EventFilter.of(**selection), ordered_by)
    return claims.ClaimRequest(group, "c", 10, 30.0, lambda row: row)


GROUP = member().group
OPEN = [deliveries.HeldDelivery(7, 7, 7), deliveries.HeldDelivery(8, 7, 7)]

WALK = {"limit": 1_000, "after": 100, "until": 25000, "force": False}

HOT = [
    (member().claim(25000), "events_pkey"),
    (member(stream="s7").claim(25000), "events_stream_position_idx"),
    (member(type="t7").claim(25000), "events_type_position_idx"),
    (member(stream="s7").claim(25000, OPEN), "events_stream_position_idx"),
    (member().claim(25000, OPEN), "batches_pkey"),
    (member("stream").claim(25000), "events_pkey"),
    (member("key", stream="s7").claim(25000), "events_stream_position_idx"),
    (member().fetch(OPEN), "batches_pkey"),
    (member().claim(25000, empty=OPEN[0]), "batches_pkey"),
    (prefetch_ops.release_prefetched(GROUP, "c"), "batches_pkey"),
    (claims.expire(GROUP, [7]), "batches_pkey"),
    (member().claim_due(), "delayed_(pkey|available_idx)"),
    (member("key").claim_due(), "delayed_pkey"),
    (deliveries.ack(GROUP, OPEN), "batches_pkey"),
    (deliveries.nack(GROUP, OPEN), "batches_pkey"),
    (deliveries.extend(GROUP, OPEN, lease=5), "batches_pkey"),
    (groups.get("g7"), "groups_pkey"),
    (groups.lag(GROUP, until=25000), "events_pkey"),
    (groups.requeue(GROUP, None), "dead_letters_pkey"),
    (groups.dead_letters(GROUP, CODEC, after=0, limit=10), "dead_letters_pkey"),
    (read(after=15000), "events_pkey"),
    (read(stream="s7"), "events_stream_position_idx"),
    (read(type="t7"), "events_type_position_idx"),
    (read(agent_id="a7"), "events_agent_position_idx"),
    (read(stream="s7", type="t7"), "events_(stream|type)_position_idx"),
    (
        read_ops.read(EventFilter.of("s7"), limit=10, reverse=True),
        "events_stream_position_idx",
    ),
    (read_ops.stream_version("v3"), "events_stream_version_key"),
    (read_positions(15000), "events_pkey"),
    (state.get("k7"), "state_pkey"),
    (state.get_many(["k7", "k8"]), "state_pkey"),
    (state.search("k7", after="", limit=10), "state_pkey"),
    (state.search("k7", where={"n": 1}, order="updated_at", limit=10), "state_pkey"),
    (state.keys("k7", after="", depth=None, separator=None, limit=10), "state_pkey"),
    (state.refresh("k7"), "state_pkey"),
    (state.history("k7", CODEC, after=0, limit=10), "events_state_version_key"),
    (
        writes.compare_and_set(
            "k7", 1, CODEC, expected_version=1, lifetime=Lifetime(None), recording=Recording()
        ),
        "state_pkey",
    ),
    (writes.delete("k7", CODEC, expected_version=None, recording=Recording()), "state_pkey"),
    (dedupe.claim("k7", owner="o", lease=5), "dedupe_pkey"),
    (dedupe.record("k7", ttl=5), "dedupe_pkey"),
    (dedupe.renew([Claim("k7", True, 7), Claim("k8", True, 8)], [5.0, 5.0]), "dedupe_pkey"),
    (dedupe.complete("k7", token=1, result="1", ttl=5), "dedupe_pkey"),
    (subscriptions.acquire("k7", {}, start=0, lease=5.0, owner="o"), "subscriptions_pkey"),
    (subscriptions.renew(HELD, lease=5.0), "subscriptions_pkey"),
    (subscriptions.commit(HELD, 9, lease=5.0), "subscriptions_pkey"),
    (subscriptions.release(HELD), "subscriptions_pkey"),
    (leases.acquire(ASKER, wait=True, listener_id=1, entry_ttl=5.0), "leases_pkey"),
    (leases.release("k7", 7, owner_id="o"), "leases_pkey"),
    (leases.renew([LEASE, LEASE._replace(name="k8", owner_id="p")]), "leases_pkey"),
    (leases.leave(ASKER), "leases_pkey"),
    (leases.queue_status([ASKER]), "leases_pkey"),
    (leases.get("k7"), "leases_pkey"),
    (leases.require(LEASE, "use"), "leases_pkey"),
    (
        writes.fenced(
            writes.compare_and_set(
                "k7", 1, CODEC, expected_version=1, lifetime=Lifetime(None), recording=Recording()
            ),
            LEASE,
        ),
        "leases_pkey",
    ),
    (snapshots.take(None, position=24990), "events_pkey"),
    (retention.find("", cutoff=9999, max_age=9.0, **WALK), "events_pkey"),
    (retention.find("s7", cutoff=9999, max_age=None, **WALK), "events_stream_position_idx"),
    (retention.newest("", 500, 25000), "events_pkey"),
    (retention.newest("s7", 10, 25000), "events_stream_position_idx"),
    (retention.count("", 24900, 25000), "events_pkey"),
    (retention.nth("s7", 100, 25000, 5), "events_stream_position_idx"),
]
WHOLE_SMALL_TABLES = ("trim_find",)


@pytest.mark.parametrize(("op", "index"), HOT, ids=lambda value: getattr(value, "action", ""))
def test_hot_statements_are_served_by_an_index(loaded, op, index):
    query = sql.statement(op.statement, sql.Dialect("pgmem"), op.fragments)
    plan = "\n".join(row[0] for row in loaded.execute(b"EXPLAIN " + query, op.params))
    assert re.search(index, plan), plan
    if op.statement in WHOLE_SMALL_TABLES:  # Those look at all who have yet to read.
        assert "Seq Scan on events" not in plan, plan
    elif op.statement != "snapshot_take":  # That one is meant to read the whole state.
        # What retention has removed is a few rows, of which any may be wanted.
        assert not re.search("Seq Scan on (?!trimmed)", plan), plan


@pytest.mark.parametrize("op", [stats.log(), stats.subscriptions(), stats.groups()])
def test_statistics_scan_no_log(loaded, op):
    query = sql.statement(op.statement, sql.Dialect("pgmem"), op.fragments)
    plan = "\n".join(row[0] for row in loaded.execute(b"EXPLAIN ANALYZE " + query, op.params))
    assert "events_pkey" in plan, plan
    assert "Seq Scan on events" not in plan, plan


def test_updates_of_state_stay_on_their_page(database_url, memory):
    """HOT: no index entry is written when an entry changes."""
    for n in range(200):
        memory.state.put("k", {"n": n})
    memory.close()  # A backend hands its figures in when it ends.
    updates, deadline = 0, time.monotonic() + 10
    with psycopg.connect(database_url, autocommit=True) as connection:
        while updates < 150 and time.monotonic() < deadline:
            updates, hot = connection.execute(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'state'"
            ).fetchone()
            time.sleep(0.05)
    assert updates >= 150
    assert hot >= 0.95 * updates


def test_a_schema_name_is_quoted():
    text = sql.statement("event_append", sql.Dialect('we"ird', "a channel", "if_free")).decode()
    assert '"we""ird".events' in text


@pytest.mark.parametrize("name", [name for name in sql.names() if name not in PIECES])
def test_the_channel_is_in_no_statement(name):
    """Keep the channel secret: other roles can see a statement's text."""
    for dialect in dialects():
        assert dialect.channel.encode() not in sql.statement(name, dialect, MARKS)
