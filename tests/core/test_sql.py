"""The statements: well-formed, fully qualified, and served by an index."""

from __future__ import annotations

import datetime
import re
import time

import psycopg
import pytest

from pgmem import sql
from pgmem.models import History
from pgmem.ops import Op, consumers, dedupe, events, snapshots, state
from pgmem.ops.frontier import read_positions
from pgmem.ops.selection import Selection
from pgmem.ops.state import Recording
from tests.support.server import TEMPLATE, fresh_database

CODEC = events.Codec()
PIECES = {
    "state_change", "state_expire", "state_outcome", "state_recording", "event_batch",
    "event_columns", "event_letter", "event_page_head", "history", "import_columns", "import_step",
}  # fmt: skip
TABLES = {
    "events", "state", "dedupe", "meta", "fold_snapshots", "state_snapshots",
    "state_snapshot_entries", "pgmem_version", "events_position_seq", "consumers", "trimmed",
    "imports",
}  # fmt: skip


def dialects():
    for bell in sql.BELLS:
        for relaxed in (True, False):
            yield sql.Dialect("some_schema", "pgmem_channel", bell, relaxed)


@pytest.mark.parametrize("name", [name for name in sql.names() if name not in PIECES])
def test_every_mark_is_filled_and_every_name_qualified(name):
    marks = (("filter", ""), ("direction", "ASC"), ("trimmed", ""))
    for dialect in dialects():
        text = sql.statement(name, dialect, marks).decode()
        assert "{" not in text.replace("'{}'", "")
        for table in re.findall(r"(?:FROM|JOIN|INTO|UPDATE)\s+([\w.\"]+)", text):
            bare = table.replace('"', "").split(".")
            assert bare[-1] not in TABLES or bare[0] == "some_schema", (name, table)
        assert "--" not in text


@pytest.mark.parametrize("name", sql.names())
def test_every_file_says_what_it_is_for(name):
    assert sql.source(name).startswith("-- ")


@pytest.mark.parametrize("name", [name for name in sql.names() if name not in PIECES])
def test_what_writes_can_be_relaxed_and_what_appends_rings(name):
    text = sql.source(name)
    shared = text + "".join(sql.source(piece) for piece in PIECES if f"include {piece}" in text)
    inside = name in {"dedupe_store_result", "dedupe_unmark"}
    writes = re.search(r"\b(INSERT INTO|UPDATE \{|DELETE FROM)", shared)
    assert ("{commit}" in shared) == bool(writes and not inside)
    assert ("{bell}" in shared) == ("INTO {schema}.events" in shared)


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
            "INSERT INTO pgmem.consumers (name, selection, position, system_identifier, timeline) "
            "SELECT 'k' || n, '{}', 0, 1, 1 FROM generate_series(1, 20000) n"
        )
        connection.execute(
            "VACUUM ANALYZE pgmem.events, pgmem.state, pgmem.dedupe, pgmem.consumers"
        )
        yield connection


def read(**selection) -> Op:
    return events.read(Selection(**selection), CODEC, limit=100)


HELD = consumers.Held("k7", 7, 0, datetime.datetime(2026, 1, 1), History(1, 1))

HOT = [
    (read(after=15000), "events_pkey"),
    (read(stream="s7"), "events_stream_position_idx"),
    (read(type="t7"), "events_type_position_idx"),
    (read(agent_id="a7"), "events_agent_position_idx"),
    (read(stream="s7", type="t7"), "events_(stream|type)_position_idx"),
    (
        events.read(Selection(stream="s7"), CODEC, limit=10, reverse=True),
        "events_stream_position_idx",
    ),
    (events.stream_version("v3"), "events_stream_version_key"),
    (read_positions(15000), "events_pkey"),
    (state.get("k7"), "state_pkey"),
    (state.get_many(["k7", "k8"]), "state_pkey"),
    (state.list_entries("k7", after="", limit=10), "state_pkey"),
    (state.history("k7", CODEC, after=0, limit=10), "events_state_version_key"),
    (
        state.compare_and_set("k7", 1, CODEC, expected_version=1, ttl=None, recording=Recording()),
        "state_pkey",
    ),
    (state.delete("k7", CODEC, expected_version=None, recording=Recording()), "state_pkey"),
    (dedupe.claim("k7", owner="o", lease=5), "dedupe_pkey"),
    (dedupe.mark("k7", ttl=5), "dedupe_pkey"),
    (dedupe.complete("k7", token=1, result=1, ttl=5, max_bytes=99), "dedupe_pkey"),
    (consumers.acquire("k7", {}, start=0, lease=5.0, owner="o"), "consumers_pkey"),
    (consumers.renew(HELD, lease=5.0), "consumers_pkey"),
    (consumers.commit(HELD, 9, lease=5.0), "consumers_pkey"),
    (consumers.release(HELD), "consumers_pkey"),
    (snapshots.take(None, position=24990), "events_pkey"),
]


@pytest.mark.parametrize(("op", "index"), HOT, ids=lambda value: getattr(value, "action", ""))
def test_hot_statements_are_served_by_an_index(loaded, op, index):
    query = sql.statement(op.statement, sql.Dialect("pgmem"), op.marks)
    plan = "\n".join(row[0] for row in loaded.execute(b"EXPLAIN " + query, op.params))
    assert re.search(index, plan), plan
    if op.statement != "snapshot_take":  # That one is meant to read the whole state.
        assert "Seq Scan on" not in plan, plan


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
    text = sql.statement("event_append", sql.Dialect('we"ird', "a channel", "try")).decode()
    assert '"we""ird".events' in text


@pytest.mark.parametrize("name", [name for name in sql.names() if name not in PIECES])
def test_the_channel_is_in_no_statement(name):
    """Others can see a statement's text, and who knows the channel can ring with letters."""
    marks = (("filter", ""), ("direction", "ASC"), ("trimmed", ""))
    for dialect in dialects():
        assert dialect.channel.encode() not in sql.statement(name, dialect, marks)
