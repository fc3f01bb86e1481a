"""`pgmem stats`, run in this process."""

from __future__ import annotations

import json
import uuid

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgmem import Event, migrate
from pgmem.cli import stats
from pgmem.core.names import SCHEMA_REVISION


def sql(url, *statements):
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def shown(pgmem, database_url):
    """Run `pgmem stats`; return the labelled lines by label, the tables by first cell."""

    def run(url=database_url):
        code, out, err = pgmem("stats", "--url", url)
        assert (code, err) == (0, "")
        upper, lower = out.split("\n\n", 1)
        found, label = {}, ""
        for line in upper.splitlines():
            label = line[: stats.WIDTH].strip() or label
            found.setdefault(label, []).append(line[stats.WIDTH :])
        return found, {line.split()[0]: line.split()[1:] for line in lower.splitlines() if line}

    return run


def test_condition_of_the_log_state_and_server(memory, database_url, shown):
    memory.events.append("s", [Event(type="t")] * 1_500)
    memory.state.put("k", 1)
    memory.state.delete("k")
    memory.dedupe.claim("w", lease=0.001)
    found, tables = shown()
    assert found["schema"] == [f"pgmem at {SCHEMA_REVISION}"]
    assert found["log"][0] == (
        "head 1,502; 1,502 events, 1,502 in the last minute, 1,502 in the last hour"
    )
    assert found["log"][1].startswith("oldest 1, of ")
    assert found["state"] == ["0 entries, 1 deleted, 0 expired"]
    assert found["dedupe"] == ["1 keys, 0 expired; 1 claims overdue"]
    assert found["retention"] == ["no policies: everything is kept"]
    assert found["writers"] == ["no open transaction holds readers back"]
    assert found["leases"] == ["0 held, 0 waiting"]
    assert found["sessions"][0].endswith("2 of pgmem")
    assert tables["events"][-1] == "never"
    assert "not shown" not in found


def test_readers_rules_and_trims(memory, database_url, shown, monkeypatch):
    monkeypatch.setattr(stats, "SHOWN", 2)
    memory.events.append("s", [Event(type="t")] * 20)
    sql(
        database_url,
        "INSERT INTO pgmem.subscriptions (name, filter, position, owner, expires_at, "
        "system_identifier, timeline) "
        "SELECT 'c' || n || chr(155), '{}', 10 * n, 'me', now() + interval '1 h', 1, 1 "
        "FROM generate_series(1, 4) n",
        "INSERT INTO pgmem.groups (name, filter, max_attempts, position, system_identifier, "
        "timeline) VALUES ('billing', '{}', 5, 20, 1, 1)",
        "INSERT INTO pgmem.dead_letters (group_name, position, attempts) VALUES ('billing', 4, 5)",
        "INSERT INTO pgmem.policies (kind, name, max_count, max_age) VALUES "
        "('events', '', 10000, 864000), ('folds', 'a' || chr(155), 3, NULL), "
        "('folds', 'b', NULL, 60)",
        "INSERT INTO pgmem.trimmed (stream, position, trimmed_at, removed) VALUES "
        "('', 3, clock_timestamp() - interval '5 h', 2000), ('a', 7, 'infinity', 1)",
    )
    found, tables = shown()
    assert found["retention"] == [
        "events: at most 10,000, none older than 10 d; folds of a\\x9b: at most 3; and 1 more"
    ]
    assert found["log"][2] == (
        "trimmed up to 3, and 1 stream separately, 2,001 events removed, last 5.0 h ago"
    )
    assert tables["c1\\x9b"][:2] == ["10", "10"]
    assert tables["c2\\x9b"] == ["20", "0", "-", "me"]
    assert "c3\\x9b" not in tables
    assert tables["and"] == ["2", "more"]
    assert tables["billing"] == ["20", "0", "-", "0", "0", "0", "1"]


def test_json_holds_everything(memory, database_url, pgmem):
    memory.events.append("s", Event(type="t"))
    document = json.loads(pgmem("stats", "--json", "--url", database_url)[1])
    assert document["log"]["events"] == {"value": 1, "exact": True}
    assert document["log"]["first_at"] <= document["server"]["now"]
    assert document["hidden"] == []
    assert document["subscriptions"] == {"total": 0, "furthest": []}
    assert "events" in [table["name"] for table in document["tables"]]


def test_reader_role_learns_what_it_may_not_read(memory, database_url, shown):
    role = f"reader_{uuid.uuid4().hex[:8]}"
    sql(database_url, f"CREATE ROLE {role}")
    migrate.grant(database_url, reader=role)
    try:
        with psycopg.connect(make_conninfo(database_url, application_name="x\x9b")) as writer:
            writer.execute(
                "INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '0')"
            )
            mine, _ = shown()
            theirs, _ = shown(make_conninfo(database_url, options=f"-c role={role}"))
    finally:
        sql(database_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert theirs["not shown"] == [
        "dedupe, subscriptions, groups, leases: this role may not read them (`pgmem migrate grant`)"
    ]
    assert "dedupe" not in theirs
    assert "(idle in transaction), for 0." in mine["writers"][0]
    assert "pg_read_all_stats" in theirs["writers"][0]
