"""Constraints, triggers and HOT updates of the tables, for any writer."""

import psycopg
import pytest
from psycopg import errors as pg

EVENT = "INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '1')"
SUBSCRIPTION = (
    "INSERT INTO pgmem.subscriptions (name, filter, position, system_identifier, timeline) "
    "VALUES ({}, '{{}}', {}, 1, 1)"
)
TRIMMED = "INSERT INTO pgmem.trimmed (stream, position) VALUES ({}, {})"
GROUP = (
    "INSERT INTO pgmem.groups "
    "(name, filter, max_attempts, position, system_identifier, timeline) "
    "VALUES ({}, '{{}}', {}, {}, 1, 1)"
)
BATCH = "INSERT INTO pgmem.batches (group_name, member) VALUES ('g', {})"
DELAYED = (
    "INSERT INTO pgmem.delayed (group_name, position, attempts, available_at) "
    "VALUES ('g', 1, 1, 'epoch')"
)
DEAD_LETTER = "INSERT INTO pgmem.dead_letters (group_name, position, attempts) VALUES ('g', 1, 1)"
LEASE = "INSERT INTO pgmem.leases (name) VALUES ({})"
LIMIT = "INSERT INTO pgmem.limits (name, arrival) VALUES ({}, 'epoch')"
POLICY = "INSERT INTO pgmem.policies (kind, name, max_count, max_age) VALUES ({}, {}, {}, {})"
TRIMMING = "SELECT set_config('retention.trimming', pg_current_xact_id()::text, {})"


@pytest.fixture
def server(database_url):
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE pgmem.events SET type = 'x'",
        "UPDATE pgmem.events SET type = 'x' WHERE false",
        "DELETE FROM pgmem.events",
        "TRUNCATE pgmem.events",
        "TRUNCATE pgmem.events CASCADE",
        "INSERT INTO pgmem.events (position, stream, type, payload) VALUES (1, 's', 't', '1') "
        "ON CONFLICT (position) DO UPDATE SET type = 'x'",
        "WITH gone AS (DELETE FROM pgmem.events RETURNING 1) SELECT count(*) FROM gone",
        "MERGE INTO pgmem.events e USING (SELECT 1) x ON true WHEN MATCHED THEN DELETE",
    ],
)
def test_log_is_append_only_for_a_superuser_too(server, statement):
    server.execute(EVENT)
    with pytest.raises(psycopg.Error, match="append-only") as caught:
        server.execute(statement)
    assert caught.value.sqlstate == "PM001"
    assert server.execute("SELECT stream, type FROM pgmem.events").fetchall() == [("s", "t")]


def test_trimming_transaction_may_delete_and_nothing_else(server):
    for _ in range(2):
        server.execute(EVENT)
    with server.transaction():
        server.execute(TRIMMING.format("true"))
        with server.transaction():  # a savepoint is part of it
            server.execute("DELETE FROM pgmem.events WHERE position = 1")
        for statement in ("UPDATE pgmem.events SET type = 'x'", "TRUNCATE pgmem.events"):
            with pytest.raises(psycopg.Error, match="append-only"), server.transaction():
                server.execute(statement)
    assert server.execute("SELECT position FROM pgmem.events").fetchall() == [(2,)]


@pytest.mark.parametrize("value", ["", "1", "on", "true", "0", "-1"])
def test_other_values_of_the_setting_allow_nothing(server, value):
    server.execute(EVENT)
    with server.transaction():
        server.execute("SELECT set_config('retention.trimming', %s, true)", (value,))
        with pytest.raises(psycopg.Error, match="append-only"), server.transaction():
            server.execute("DELETE FROM pgmem.events")


def test_setting_of_one_transaction_allows_nothing_in_the_next(server):
    server.execute(EVENT)
    for local in ("true", "false"):  # false: left behind in the session
        server.execute(TRIMMING.format(local))
        with pytest.raises(psycopg.Error, match="append-only"):
            server.execute("DELETE FROM pgmem.events")
    server.execute("RESET retention.trimming")


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("INSERT INTO pgmem.meta DEFAULT VALUES", "meta_pkey"),
        ("INSERT INTO pgmem.meta (singleton) VALUES (false)", "meta_single_row"),
        (
            "INSERT INTO pgmem.fold_snapshots (name, fold_version, position, value) "
            "VALUES ('',1,1,'1')",
            "fold_snapshots_name_length",
        ),
        (SUBSCRIPTION.format("'c'", 0) + ", ('c', '{}', 1, 1, 1)", "subscriptions_pkey"),
        (TRIMMED.format("repeat('x', 519)", 1), "trimmed_stream_length"),
        (TRIMMED.format("repeat('é', 259) || 'x'", 1), "trimmed_stream_length"),
        (TRIMMED.format("'s'", 0), "trimmed_position_positive"),
        (TRIMMED.format("'s'", -1), "trimmed_position_positive"),
        (TRIMMED.format("''", 1) + ", ('', 2)", "trimmed_pkey"),
        (GROUP.format("'g'", 1, 0) + ", ('g', '{}', 1, 0, 1, 1)", "groups_pkey"),
        (DELAYED + ", ('g', 1, 2, 'epoch')", "delayed_pkey"),
        (DEAD_LETTER + ", ('g', 1, 2)", "dead_letters_pkey"),
        (LEASE.format("'l'), ('l'"), "leases_pkey"),
        (LIMIT.format("'l'") + ", ('l', 'epoch')", "limits_pkey"),
        (POLICY.format("'other'", "''", 1, 1), "policies_kind_known"),
        (POLICY.format("'events'", "repeat('x', 519)", 1, 1), "policies_name_length"),
        (POLICY.format("'events'", "''", 0, 1), "policies_max_count_positive"),
        (POLICY.format("'events'", "''", 1, 0), "policies_max_age_positive"),
        (POLICY.format("'events'", "''", "NULL", "NULL"), "policies_says_something"),
        (POLICY.format("'events'", "''", 1, 1) + ", ('events', '', 2, 2)", "policies_pkey"),
    ],
)
def test_constraint_refuses_row(server, statement, constraint):
    with pytest.raises(pg.IntegrityError) as caught:
        server.execute(statement)
    assert caught.value.diag.constraint_name == constraint


@pytest.mark.parametrize(
    "statement",
    [
        *(
            f"INSERT INTO pgmem.state (key, version, recording) VALUES ('k', 1, {recording})"
            for recording in (0, 1, 2)
        ),
        SUBSCRIPTION.format("repeat('é', 256)", 0),
        SUBSCRIPTION.format("'c'", 2**63 - 1),
        TRIMMED.format("''", 1),  # of the whole log
        TRIMMED.format("repeat('é', 259)", 2**63 - 1),
        "INSERT INTO pgmem.trimmed (stream, position, trimmed_at) VALUES ('s', 1, 'infinity')",
        GROUP.format("repeat('é', 256)", 1, 0),
        GROUP.format("'g'", 1, 2**63 - 1),
        BATCH.format("NULL"),
        f"{DELAYED}, ('h', 1, 1, 'epoch'), ('g', 2, 1, 'infinity')",
        LEASE.format("repeat('é', 256)"),
        LIMIT.format("repeat('é', 256)"),
        *(
            POLICY.format(f"'{kind}'", "''", limit, age)
            for kind in ("events", "folds", "snapshots")
            for limit, age in ((1, "NULL"), ("NULL", 0.001), (2**63 - 1, 1e9))
        ),
        POLICY.format("'events'", "repeat('é', 259)", 1, 1),
    ],
)
def test_row_at_the_limit_is_accepted(server, statement):
    server.execute(statement)


@pytest.mark.parametrize(
    "column", ["name", "filter", "position", "token", "system_identifier", "timeline"]
)
def test_subscription_columns_are_not_null(server, column):
    server.execute(SUBSCRIPTION.format("'c'", 0))
    with pytest.raises(pg.NotNullViolation) as caught:
        server.execute(f"UPDATE pgmem.subscriptions SET {column} = NULL")
    assert caught.value.diag.column_name == column


def test_entry_written_by_other_code_is_not_cached(server):
    server.execute("INSERT INTO pgmem.state (key, value, version) VALUES ('k', '1', 1)")
    assert server.execute("SELECT recording FROM pgmem.state").fetchone() == (1,)
    with pytest.raises(pg.NotNullViolation):
        server.execute("UPDATE pgmem.state SET recording = NULL")


def test_versions_are_unique_per_stream_and_key(server):
    versioned = (
        "INSERT INTO pgmem.events (stream, stream_version, type, payload) "
        "VALUES ('s', %s, 't', '1')"
    )
    change = (
        "INSERT INTO pgmem.events (stream, stream_version, type, payload, state_key, "
        "state_version) VALUES ('s', 1, 't', '1', 'k', %s)"
    )
    for statement, version, index in (
        (versioned, 1, "events_stream_version_key"),
        (change, 7, "events_state_version_key"),
    ):
        server.execute(statement, (version,))
        with pytest.raises(pg.UniqueViolation) as caught:
            server.execute(statement, (version,))
        assert caught.value.diag.constraint_name == index
    for _ in range(2):  # plain events have no version; neither has a touch
        server.execute(EVENT)
        server.execute(change, (None,))


def test_json_keeps_its_text(server):
    text = '{"b": 1e300, "a": -0.0, "a": 1.10, "z" :"\\u00e9"}'
    server.execute("INSERT INTO pgmem.state (key, value, version) VALUES ('k', %s, 1)", (text,))
    assert server.execute("SELECT value::text FROM pgmem.state").fetchone() == (text,)


@pytest.mark.parametrize(
    ("table", "claim"),
    [
        ("dedupe", "INSERT INTO pgmem.dedupe (kind, key) VALUES ('work', 'k')"),
        ("subscriptions", SUBSCRIPTION.format("'c'", 0)),
        ("batches", BATCH.format("NULL")),
        ("leases", LEASE.format("'l'")),
    ],
)
def test_fencing_token_is_never_reused(server, table, claim):
    first = server.execute(f"{claim} RETURNING token").fetchone()
    server.execute(f"DELETE FROM pgmem.{table}")
    assert server.execute(f"{claim} RETURNING token").fetchone() > first


def test_deleting_a_snapshot_deletes_its_entries(server):
    server.execute("INSERT INTO pgmem.state_snapshots (position, entries) VALUES (0, 1)")
    server.execute(
        "INSERT INTO pgmem.state_snapshot_entries (snapshot_id, key, value, version) "
        "SELECT id, 'k', '1', 1 FROM pgmem.state_snapshots"
    )
    server.execute("DELETE FROM pgmem.state_snapshots")
    assert server.execute("SELECT count(*) FROM pgmem.state_snapshot_entries").fetchone() == (0,)


@pytest.mark.parametrize(
    ("table", "rows", "change"),
    [
        (
            "state",
            "(key, value, version) SELECT 'k' || i, '1', 1",
            "version = version + 1, value = '2', recording = 2 WHERE key < 'k12'",
        ),
        (
            "subscriptions",
            "(name, filter, position, system_identifier, timeline) SELECT 'c' || i, '{}', 0, 1, 1",
            "position = position + 1, token = 7, owner = 'me', expires_at = now(), "
            "updated_at = now() WHERE name < 'c12'",
        ),
        (
            "groups",
            "(name, filter, max_attempts, position, system_identifier, timeline) "
            "SELECT 'g' || i, '{}', 1, 0, 1, 1",
            "position = position + 1, updated_at = now() WHERE name < 'g12'",
        ),
        (
            "batches",
            "(group_name) SELECT 'g'",
            "token = 7, member = 'me', expires_at = now(), claimed_at = now(), "
            "positions = '{1,2,3}', attempts = '{1,1,2}', keys = '{a,b,c}' WHERE id % 10 = 0",
        ),
        (
            "leases",
            "(name) SELECT 'l' || i",
            "token = 7, owner_id = 'me', owner = 'me', expires_at = now(), waiters = '[1]', "
            "acquired_at = now() WHERE name < 'l12'",
        ),
        (
            "limits",
            "(name, arrival) SELECT 'l' || i, 'epoch'",
            "arrival = now() WHERE name < 'l12'",
        ),
    ],
)
def test_update_is_hot(server, table, rows, change):
    server.execute(f"INSERT INTO pgmem.{table} {rows} FROM generate_series(1, 300) AS i")
    server.execute(f"UPDATE pgmem.{table} SET {change}")
    server.execute("SELECT pg_stat_force_next_flush()")
    row = server.execute(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables "
        "WHERE schemaname = 'pgmem' AND relname = %s",
        (table,),
    ).fetchone()
    assert row is not None
    assert row[0] == row[1] > 0
