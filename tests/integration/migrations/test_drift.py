"""The SQLAlchemy tables and the migrated database are the same, in the server's own words."""

import psycopg
import pytest

from pgmem import migrate
from pgmem.admin.drift import describe, differences
from pgmem.admin.tables import build, tables

# Each breaks one thing; with it, what check has to say about it.
BREAKAGES = [
    ("ALTER TABLE pgmem.events ALTER payload TYPE jsonb", "column events.payload is 'jsonb"),
    ('ALTER TABLE pgmem.events ALTER stream TYPE text COLLATE "default"', "column events.stream"),
    ("ALTER TABLE pgmem.events ALTER type DROP NOT NULL", "column events.type"),
    ("ALTER TABLE pgmem.events ALTER recorded_at SET DEFAULT now()", "column events.recorded_at"),
    ("ALTER TABLE pgmem.events ALTER position SET GENERATED ALWAYS", "column events.position"),
    ("ALTER TABLE pgmem.events ALTER position SET CACHE 32", "sequence events_position_seq"),
    ("ALTER TABLE pgmem.state DROP COLUMN expires_at", "column state.expires_at is missing"),
    ("ALTER TABLE pgmem.state ADD COLUMN tenant text", "column state.tenant is not pgmem's"),
    ("ALTER TABLE pgmem.state RENAME version TO v", "column state.version is missing"),
    (
        "ALTER TABLE pgmem.policies DROP CONSTRAINT policies_kind_known",
        "constraint policies.policies_kind_known is missing",
    ),
    (
        "ALTER TABLE pgmem.trimmed DROP CONSTRAINT trimmed_stream_length, "
        "ADD CONSTRAINT trimmed_stream_length CHECK (octet_length(stream) < 999)",
        "constraint trimmed.trimmed_stream_length is 'CHECK",
    ),
    ("ALTER TABLE pgmem.state ADD CONSTRAINT mine CHECK (version < 3)", "constraint state.mine is"),
    (
        "ALTER TABLE pgmem.state_snapshot_entries DROP CONSTRAINT "
        "state_snapshot_entries_snapshot_id_fkey, ADD CONSTRAINT "
        "state_snapshot_entries_snapshot_id_fkey FOREIGN KEY (snapshot_id) "
        "REFERENCES pgmem.state_snapshots",
        "constraint state_snapshot_entries.state_snapshot_entries_snapshot_id_fkey is",
    ),
    (
        "DROP INDEX pgmem.events_stream_position_idx",
        "index events.events_stream_position_idx is missing",
    ),
    (
        "DROP INDEX pgmem.events_stream_version_key; CREATE UNIQUE INDEX events_stream_version_key "
        "ON pgmem.events (stream, stream_version)",
        "index events.events_stream_version_key is",
    ),
    ("CREATE UNIQUE INDEX mine ON pgmem.events (agent_id)", "index events.mine is not pgmem's"),
    ("CREATE INDEX mine ON pgmem.state (version)", "index state.mine is not pgmem's"),
    (
        "DROP TRIGGER events_refuse_truncate ON pgmem.events",
        "trigger events.events_refuse_truncate is missing",
    ),
    (
        "ALTER TABLE pgmem.events DISABLE TRIGGER events_refuse_change",
        "trigger events.events_refuse_change is",
    ),
    (
        "CREATE OR REPLACE FUNCTION pgmem.refuse_change() RETURNS trigger LANGUAGE plpgsql "
        "SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN NULL; END'",
        "function refuse_change()",
    ),
    ("ALTER FUNCTION pgmem.refuse_change() RESET ALL", "function refuse_change()"),
    ("ALTER TABLE pgmem.state RESET (fillfactor)", "table state is"),
    ("ALTER TABLE pgmem.events ENABLE ROW LEVEL SECURITY", "table events is"),
    ("ALTER SEQUENCE pgmem.dedupe_token_seq CYCLE", "sequence dedupe_token_seq is"),
    ("DROP TABLE pgmem.fold_snapshots", "table fold_snapshots is missing"),
    ("ALTER TABLE pgmem.state ALTER recording SET DEFAULT 2", "column state.recording is"),
    ("ALTER TABLE pgmem.subscriptions ALTER token DROP DEFAULT", "column subscriptions.token is"),
    ("ALTER TABLE pgmem.subscriptions RESET (fillfactor)", "table subscriptions is"),
    (
        "ALTER SEQUENCE pgmem.subscriptions_token_seq OWNED BY pgmem.subscriptions.token",
        "sequence subscriptions_token_seq is",
    ),
    ("DROP TABLE pgmem.trimmed", "table trimmed is missing"),
    ("DROP INDEX pgmem.imports_target_key", "index imports.imports_target_key is missing"),
    ("ALTER TABLE pgmem.trimmed DROP COLUMN removed", "column trimmed.removed is missing"),
    ("DROP TABLE pgmem.policies", "table policies is missing"),
    ("ALTER TABLE pgmem.batches RESET (autovacuum_vacuum_threshold)", "table batches is"),
    (
        "ALTER TABLE pgmem.batches ALTER positions SET STORAGE EXTENDED",
        "column batches.positions is",
    ),
    ("DROP INDEX pgmem.delayed_available_idx", "index delayed.delayed_available_idx is missing"),
]


def test_the_tables_and_the_migrations_make_the_same_schema(database_url):
    with migrate.engine(database_url).connect() as connection:
        connection.exec_driver_sql("CREATE SCHEMA made")
        tables("made").metadata.create_all(connection)
        want, have = describe(connection, "made"), describe(connection, "pgmem")
        assert list(differences(want, have, exact=True)) == []
        # The comparison has looked at something of every kind.
        assert {kind: len(found) for kind, found in have.items()} == {
            "table": 19,
            "column": 141,
            "constraint": 33,
            "index": 28,
            "trigger": 2,
            "function": 4,
            "sequence": 7,
        }
        channels = connection.exec_driver_sql(
            "SELECT channel FROM made.meta UNION SELECT channel FROM pgmem.meta"
        ).all()
        assert len(channels) == 2


def test_create_all_gives_a_log_that_is_append_only(database_url):
    with migrate.engine(database_url).connect() as connection:
        connection.exec_driver_sql("CREATE SCHEMA made")
        build("made").metadata.create_all(connection)
        with pytest.raises(Exception, match="append-only"):
            connection.exec_driver_sql("TRUNCATE made.events")


def test_check_sees_each_thing_that_drifts(database_url):
    with migrate.engine(database_url).connect() as connection:
        want = describe(connection, "pgmem")
    with psycopg.connect(database_url, autocommit=True) as server:
        for statement, said in BREAKAGES:
            with migrate.engine(database_url).connect() as connection:
                connection.exec_driver_sql(statement)
                found = list(differences(want, describe(connection, "pgmem")))
                assert any(line.startswith(said) for line in found), (statement, found)
        # The last one for real, through the front door.
        server.execute(BREAKAGES[0][0])
    assert migrate.check(database_url) == [
        "column events.payload is 'jsonb not null', expected 'json not null'"
    ]


def test_harmless_additions_are_no_drift(database_url):
    with psycopg.connect(database_url, autocommit=True) as server:
        server.execute("""
            CREATE INDEX mine ON pgmem.events ((payload->>'account'));
            CREATE VIEW pgmem.recent AS SELECT * FROM pgmem.events ORDER BY position DESC LIMIT 9;
            CREATE FUNCTION pgmem.audit() RETURNS trigger LANGUAGE plpgsql
                AS 'BEGIN RETURN NEW; END';
            CREATE TRIGGER audit AFTER INSERT ON pgmem.events
                FOR EACH ROW EXECUTE FUNCTION pgmem.audit();
            CREATE TABLE pgmem.notes (id int PRIMARY KEY, CHECK (id > 0))""")
    assert migrate.check(database_url) == []


def test_check_leaves_nothing_behind(database_url):
    with psycopg.connect(database_url, autocommit=True) as server:
        count = "SELECT count(*) FROM pg_class"
        migrate.check(database_url)  # the session's temporary schema itself stays
        before = server.execute(count).fetchone()
        migrate.check(database_url)
        assert server.execute(count).fetchone() == before


def test_check_works_while_the_schema_is_on_the_search_path(database_url):
    url = psycopg.conninfo.make_conninfo(database_url, options="-c search_path=pgmem,public")
    assert migrate.check(url) == []


def test_check_of_a_schema_name_that_is_part_of_other_names(make_database):
    url = make_database()
    for schema in ("s", "events", "_", "state"):
        migrate.upgrade(url, schema=schema)
        assert migrate.check(url, schema) == []
