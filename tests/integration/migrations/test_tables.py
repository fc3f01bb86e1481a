"""What the tables themselves refuse and keep, whoever writes."""

import psycopg
import pytest
from psycopg import errors as pg

EVENT = "INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '1')"
CONSUMER = (
    "INSERT INTO pgmem.consumers (name, selection, position, system_identifier, timeline) "
    "VALUES ({}, '{{}}', {}, 1, 1)"
)
TRIMMED = "INSERT INTO pgmem.trimmed (stream, position) VALUES ({}, {})"
GROUP = (
    "INSERT INTO pgmem.groups "
    "(name, selection, max_attempts, position, system_identifier, timeline) "
    "VALUES ({}, '{{}}', {}, {}, 1, 1)"
)
DELIVERY = "INSERT INTO pgmem.deliveries (group_name, consumer) VALUES ('g', {})"
PARKED = (
    "INSERT INTO pgmem.parked (group_name, position, attempts, available_at) "
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
def test_the_log_is_append_only_even_for_a_superuser(server, statement):
    server.execute(EVENT)
    with pytest.raises(psycopg.Error, match="append-only") as caught:
        server.execute(statement)
    assert caught.value.sqlstate == "PM001"
    assert server.execute("SELECT stream, type FROM pgmem.events").fetchall() == [("s", "t")]


def test_who_says_so_in_his_own_transaction_may_delete_and_no_more(server):
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


@pytest.mark.parametrize("said", ["", "1", "on", "true", "0", "-1"])
def test_another_word_for_it_allows_nothing(server, said):
    server.execute(EVENT)
    with server.transaction():
        server.execute("SELECT set_config('retention.trimming', %s, true)", (said,))
        with pytest.raises(psycopg.Error, match="append-only"), server.transaction():
            server.execute("DELETE FROM pgmem.events")


def test_what_was_said_in_one_transaction_allows_nothing_in_the_next(server):
    server.execute(EVENT)
    for local in ("true", "false"):  # false: left behind in the session
        server.execute(TRIMMING.format(local))
        with pytest.raises(psycopg.Error, match="append-only"):
            server.execute("DELETE FROM pgmem.events")
    server.execute("RESET retention.trimming")


def test_names_have_a_length_in_bytes(server):
    def insert(**given):
        row = {"stream": "s", "type": "t", "agent_id": None, "state_key": None, **given}
        server.execute(
            "INSERT INTO pgmem.events (stream, type, agent_id, state_key, payload) "
            "VALUES (%(stream)s, %(type)s, %(agent_id)s, %(state_key)s, '1')",
            row,
        )

    for column, most in (("stream", 518), ("type", 512), ("agent_id", 512), ("state_key", 512)):
        insert(**{column: "é" * (most // 2)})
        for bad in ("", "x" * (most + 1), "é" * (most // 2) + "x"):
            with pytest.raises(pg.CheckViolation) as caught:
                insert(**{column: bad})
            assert caught.value.diag.constraint_name == f"events_{column}_length"


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("INSERT INTO pgmem.state (key, version) VALUES ('', 1)", "state_key_length"),
        ("INSERT INTO pgmem.state (key, version) VALUES (repeat('x', 513), 1)", "state_key_length"),
        ("INSERT INTO pgmem.state (key, version) VALUES ('k', 0)", "state_version_positive"),
        ("INSERT INTO pgmem.dedupe (kind, key) VALUES ('other', 'k')", "dedupe_kind_known"),
        ("INSERT INTO pgmem.dedupe (kind, key) VALUES ('work', '')", "dedupe_key_length"),
        ("INSERT INTO pgmem.meta DEFAULT VALUES", "meta_pkey"),
        ("INSERT INTO pgmem.meta (singleton) VALUES (false)", "meta_single_row"),
        (
            "INSERT INTO pgmem.fold_snapshots (name, fold_version, position, value) "
            "VALUES ('',1,1,'1')",
            "fold_snapshots_name_length",
        ),
        (
            "INSERT INTO pgmem.state (key, version, recording) VALUES ('k', 1, -1)",
            "state_recording_known",
        ),
        (
            "INSERT INTO pgmem.state (key, version, recording) VALUES ('k', 1, 3)",
            "state_recording_known",
        ),
        (CONSUMER.format("''", 0), "consumers_name_length"),
        (CONSUMER.format("repeat('x', 513)", 0), "consumers_name_length"),
        (CONSUMER.format("repeat('é', 256) || 'x'", 0), "consumers_name_length"),
        (CONSUMER.format("'c'", -1), "consumers_position_positive"),
        (CONSUMER.format("'c'", 0) + ", ('c', '{}', 1, 1, 1)", "consumers_pkey"),
        (TRIMMED.format("repeat('x', 519)", 1), "trimmed_stream_length"),
        (TRIMMED.format("repeat('é', 259) || 'x'", 1), "trimmed_stream_length"),
        (TRIMMED.format("'s'", 0), "trimmed_position_positive"),
        (TRIMMED.format("'s'", -1), "trimmed_position_positive"),
        (TRIMMED.format("''", 1) + ", ('', 2)", "trimmed_pkey"),
        (GROUP.format("'g'", 1, 0) + ", ('g', '{}', 1, 0, 1, 1)", "groups_pkey"),
        (PARKED + ", ('g', 1, 2, 'epoch')", "parked_pkey"),
        (DEAD_LETTER + ", ('g', 1, 2)", "dead_letters_pkey"),
        (LEASE.format("''"), "leases_name_length"),
        (LEASE.format("repeat('x', 513)"), "leases_name_length"),
        (LEASE.format("'l'), ('l'"), "leases_pkey"),
        (LIMIT.format("''"), "limits_name_length"),
        (LIMIT.format("repeat('x', 513)"), "limits_name_length"),
        (LIMIT.format("'l'") + ", ('l', 'epoch')", "limits_pkey"),
        (POLICY.format("'other'", "''", 1, 1), "policies_kind_known"),
        (POLICY.format("'events'", "repeat('x', 519)", 1, 1), "policies_name_length"),
        (POLICY.format("'events'", "''", 0, 1), "policies_max_count_positive"),
        (POLICY.format("'events'", "''", 1, 0), "policies_max_age_positive"),
        (POLICY.format("'events'", "''", "NULL", "NULL"), "policies_says_something"),
        (POLICY.format("'events'", "''", 1, 1) + ", ('events', '', 2, 2)", "policies_pkey"),
        (
            "INSERT INTO pgmem.events (stream, type, payload, state_version) "
            "VALUES ('s','t','1',1)",
            "events_state_version_has_key",
        ),
        (
            "INSERT INTO pgmem.events (stream, type, payload, stream_version) "
            "VALUES ('s','t','1',0)",
            "events_stream_version_positive",
        ),
        (
            "INSERT INTO pgmem.events (stream, type, payload, state_key, state_version) "
            "VALUES ('s','t','1','k',0)",
            "events_state_version_positive",
        ),
    ],
)
def test_what_the_tables_refuse_and_by_which_constraint(server, statement, constraint):
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
        CONSUMER.format("repeat('é', 256)", 0),
        CONSUMER.format("'c'", 2**63 - 1),
        TRIMMED.format("''", 1),  # of the whole log
        TRIMMED.format("repeat('é', 259)", 2**63 - 1),
        "INSERT INTO pgmem.trimmed (stream, position, trimmed_at) VALUES ('s', 1, 'infinity')",
        GROUP.format("repeat('é', 256)", 1, 0),
        GROUP.format("'g'", 1, 2**63 - 1),
        DELIVERY.format("NULL"),
        f"{PARKED}, ('h', 1, 1, 'epoch'), ('g', 2, 1, 'infinity')",
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
def test_what_the_tables_just_take(server, statement):
    server.execute(statement)


@pytest.mark.parametrize(
    "column", ["name", "selection", "position", "token", "system_identifier", "timeline"]
)
def test_a_consumer_has_everything_but_an_owner(server, column):
    server.execute(CONSUMER.format("'c'", 0))
    with pytest.raises(pg.NotNullViolation) as caught:
        server.execute(f"UPDATE pgmem.consumers SET {column} = NULL")
    assert caught.value.diag.column_name == column


def test_an_entry_written_without_a_word_on_it_is_not_to_be_cached(server):
    server.execute("INSERT INTO pgmem.state (key, value, version) VALUES ('k', '1', 1)")
    assert server.execute("SELECT recording FROM pgmem.state").fetchone() == (1,)
    with pytest.raises(pg.NotNullViolation):
        server.execute("UPDATE pgmem.state SET recording = NULL")


def test_versions_are_unique_in_their_stream_and_key(server):
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


def test_json_comes_back_as_the_text_that_it_was(server):
    text = '{"b": 1e300, "a": -0.0, "a": 1.10, "z" :"\\u00e9"}'
    server.execute("INSERT INTO pgmem.state (key, value, version) VALUES ('k', %s, 1)", (text,))
    assert server.execute("SELECT value::text FROM pgmem.state").fetchone() == (text,)


@pytest.mark.parametrize(
    ("table", "claim"),
    [
        ("dedupe", "INSERT INTO pgmem.dedupe (kind, key) VALUES ('work', 'k')"),
        ("consumers", CONSUMER.format("'c'", 0)),
        ("deliveries", DELIVERY.format("NULL")),
        ("leases", LEASE.format("'l'")),
    ],
)
def test_a_fencing_token_is_never_given_twice(server, table, claim):
    first = server.execute(f"{claim} RETURNING token").fetchone()
    server.execute(f"DELETE FROM pgmem.{table}")
    assert server.execute(f"{claim} RETURNING token").fetchone() > first


def test_a_snapshot_takes_its_entries_with_it(server):
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
            "consumers",
            "(name, selection, position, system_identifier, timeline) "
            "SELECT 'c' || i, '{}', 0, 1, 1",
            "position = position + 1, token = 7, owner = 'me', lease_until = now(), "
            "updated_at = now() WHERE name < 'c12'",
        ),
        (
            "groups",
            "(name, selection, max_attempts, position, system_identifier, timeline) "
            "SELECT 'g' || i, '{}', 1, 0, 1, 1",
            "position = position + 1, updated_at = now() WHERE name < 'g12'",
        ),
        (
            "deliveries",
            "(group_name) SELECT 'g'",
            "token = 7, consumer = 'me', lease_until = now(), handed_at = now(), "
            "positions = '{1,2,3}', attempts = '{1,1,2}', keys = '{a,b,c}' WHERE slot % 10 = 0",
        ),
        (
            "leases",
            "(name) SELECT 'l' || i",
            "token = 7, owner = 'me', holder = 'me', expires_at = now(), waiters = '[1]', "
            "acquired_at = now() WHERE name < 'l12'",
        ),
        (
            "limits",
            "(name, arrival) SELECT 'l' || i, 'epoch'",
            "arrival = now() WHERE name < 'l12'",
        ),
    ],
)
def test_a_change_is_a_hot_update(server, table, rows, change):
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
