"""What the tables themselves refuse and keep, whoever writes."""

import psycopg
import pytest
from psycopg import errors as pg

EVENT = "INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '1')"


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


def test_a_fencing_token_is_never_given_twice(server):
    claim = "INSERT INTO pgmem.dedupe (kind, key) VALUES ('work', 'k') RETURNING token"
    first = server.execute(claim).fetchone()
    server.execute("DELETE FROM pgmem.dedupe")
    assert server.execute(claim).fetchone() > first


def test_a_snapshot_takes_its_entries_with_it(server):
    server.execute("INSERT INTO pgmem.state_snapshots (position, entries) VALUES (0, 1)")
    server.execute(
        "INSERT INTO pgmem.state_snapshot_entries (snapshot_id, key, value, version) "
        "SELECT id, 'k', '1', 1 FROM pgmem.state_snapshots"
    )
    server.execute("DELETE FROM pgmem.state_snapshots")
    assert server.execute("SELECT count(*) FROM pgmem.state_snapshot_entries").fetchone() == (0,)


def test_changing_an_entry_is_a_hot_update(server):
    server.execute(
        "INSERT INTO pgmem.state (key, value, version) "
        "SELECT 'k' || i, '1', 1 FROM generate_series(1, 300) AS i"
    )
    server.execute("UPDATE pgmem.state SET version = version + 1, value = '2' WHERE key < 'k12'")
    server.execute("SELECT pg_stat_force_next_flush()")
    row = server.execute(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables "
        "WHERE schemaname = 'pgmem' AND relname = 'state'"
    ).fetchone()
    assert row is not None
    assert row[0] == row[1] > 0
