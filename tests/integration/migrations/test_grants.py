"""Least privilege, with roles that have nothing else."""

import uuid

import psycopg
import pytest
from psycopg import errors as pg

from pgmem import migrate
from pgmem.admin.grants import ROLES
from pgmem.errors import DatabaseFault, InvalidInput


@pytest.fixture
def roles(database_url):
    suffix = uuid.uuid4().hex[:8]
    names = {kind: f'Pg"mem % {kind} {suffix}' for kind in ROLES}
    with psycopg.connect(database_url, autocommit=True) as server:
        for name in names.values():
            server.execute(psycopg.sql.SQL("CREATE ROLE {}").format(psycopg.sql.Identifier(name)))
        migrate.grant(database_url, **names)
        yield names
        for name in names.values():
            role = psycopg.sql.Identifier(name)
            server.execute(psycopg.sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))


@pytest.fixture
def acting(database_url, roles):
    opened = []

    def act(kind):
        connection = psycopg.connect(database_url, autocommit=True)
        opened.append(connection)
        connection.execute(
            psycopg.sql.SQL("SET ROLE {}").format(psycopg.sql.Identifier(roles[kind]))
        )
        return connection

    yield act
    for connection in opened:
        connection.close()


GROUP = (
    "(name, filter, max_attempts, position, system_identifier, timeline) "
    "VALUES ('g', '{}', 5, 1, 1, 1)"
)
SUBSCRIPTION = "(name, filter, position, system_identifier, timeline) VALUES ('c', '{}', 1, 1, 1)"
READS = [
    "SELECT * FROM pgmem.events",
    "SELECT * FROM pgmem.state",
    "SELECT * FROM pgmem.trimmed",
    "SELECT * FROM pgmem.policies",
    "SELECT * FROM pgmem.fold_snapshots",
    "SELECT * FROM pgmem.state_snapshots",
    "SELECT * FROM pgmem.state_snapshot_entries",
    "SELECT version_num FROM pgmem.pgmem_version",
    "SELECT last_value FROM pgmem.events_position_seq",
    "SELECT created_at FROM pgmem.meta",
]
WRITES = [
    "INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '1')",
    "INSERT INTO pgmem.state (key, value, version) VALUES ('k', '1', 1)",
    "UPDATE pgmem.state SET recording = 2",
    "SELECT * FROM pgmem.state WHERE key = 'k' FOR UPDATE",
    "UPDATE pgmem.state SET version = version + 1",
    "INSERT INTO pgmem.dedupe (kind, key) VALUES ('work', 'k')",
    "UPDATE pgmem.dedupe SET completed_at = clock_timestamp()",
    "SELECT nextval('pgmem.dedupe_token_seq')",
    "DELETE FROM pgmem.dedupe",
    f"INSERT INTO pgmem.subscriptions {SUBSCRIPTION}",
    f"INSERT INTO pgmem.subscriptions {SUBSCRIPTION} ON CONFLICT (name) DO UPDATE SET position = 2",
    "SELECT * FROM pgmem.subscriptions WHERE name = 'c' FOR UPDATE",
    "UPDATE pgmem.subscriptions SET token = nextval('pgmem.subscriptions_token_seq')",
    "SELECT last_value FROM pgmem.subscriptions_token_seq",
    "DELETE FROM pgmem.subscriptions",
    "INSERT INTO pgmem.imports (source, part, cursor, token) VALUES ('r', 'p', '', 't')",
    "UPDATE pgmem.imports SET step = step + 1",
    "DELETE FROM pgmem.imports",
    f"INSERT INTO pgmem.groups {GROUP}",
    "SELECT * FROM pgmem.groups WHERE name = 'g' FOR UPDATE",
    "UPDATE pgmem.groups SET position = 2",
    "INSERT INTO pgmem.batches (group_name, positions) VALUES ('g', '{1}')",
    "UPDATE pgmem.batches SET token = nextval('pgmem.batches_token_seq')",
    "DELETE FROM pgmem.batches",
    "INSERT INTO pgmem.delayed (group_name, position, attempts, available_at) "
    "VALUES ('g', 1, 1, 'epoch')",
    "DELETE FROM pgmem.delayed",
    "INSERT INTO pgmem.dead_letters (group_name, position, attempts) VALUES ('g', 1, 1)",
    "DELETE FROM pgmem.dead_letters",
    "DELETE FROM pgmem.groups",
    "INSERT INTO pgmem.leases (name) VALUES ('l')",
    "UPDATE pgmem.leases SET token = nextval('pgmem.leases_token_seq')",
    "DELETE FROM pgmem.leases",
    "INSERT INTO pgmem.limits (name, arrival) VALUES ('l', 'epoch')",
    "UPDATE pgmem.limits SET arrival = clock_timestamp()",
    "INSERT INTO pgmem.fold_snapshots (name, fold_version, position, value) "
    "VALUES ('f', 1, 1, '1')",
    "DELETE FROM pgmem.fold_snapshots",
    "INSERT INTO pgmem.state_snapshots (position, entries) VALUES (1, 1)",
    "INSERT INTO pgmem.state_snapshot_entries (snapshot_id, key, value, version) "
    "SELECT id, 'k', '1', 1 FROM pgmem.state_snapshots",
    "DELETE FROM pgmem.state_snapshots",  # its entries too, through the foreign key
]
SAYS_IT_TRIMS = "SELECT set_config('retention.trimming', pg_current_xact_id()::text, true)"
JANITORS = [
    "SELECT * FROM pgmem.trim_events('', '{1}', false)",
    "DELETE FROM pgmem.limits",
    "UPDATE pgmem.trimmed SET trimmed_at = clock_timestamp()",
    "INSERT INTO pgmem.policies (kind, name, max_count) VALUES ('events', '', 1)",
    "UPDATE pgmem.policies SET max_count = 2",
    "DELETE FROM pgmem.policies",
    "UPDATE pgmem.meta SET log_id = gen_random_uuid()",
]
NOBODYS = [
    "UPDATE pgmem.events SET type = 'x'",
    "DELETE FROM pgmem.events",
    "INSERT INTO pgmem.events (stream, type, payload, recorded_at) VALUES ('s', 't', '1', 'epoch')",
    "INSERT INTO pgmem.trimmed (stream, position) VALUES ('s', 1)",
    "UPDATE pgmem.trimmed SET position = 1",
    "DELETE FROM pgmem.trimmed",
    "TRUNCATE pgmem.events",
    "DELETE FROM pgmem.state",
    "TRUNCATE pgmem.state",
    "TRUNCATE pgmem.dedupe",
    "TRUNCATE pgmem.subscriptions",
    "TRUNCATE pgmem.imports",
    "TRUNCATE pgmem.trimmed",
    "TRUNCATE pgmem.policies",
    "TRUNCATE pgmem.leases",
    "UPDATE pgmem.meta SET channel = 'x'",
    "DELETE FROM pgmem.meta",
    "UPDATE pgmem.pgmem_version SET version_num = 'x'",
    "SELECT setval('pgmem.events_position_seq', 1)",
    "SELECT setval('pgmem.dedupe_token_seq', 1)",
    "SELECT setval('pgmem.subscriptions_token_seq', 1)",
    "SELECT setval('pgmem.leases_token_seq', 1)",
    "CREATE TABLE pgmem.mine (a int)",
    "ALTER TABLE pgmem.events DISABLE TRIGGER ALL",
    "DROP TRIGGER events_refuse_change ON pgmem.events",
    "CREATE INDEX ON pgmem.events (recorded_at)",
]


def test_a_reader_reads_and_can_do_nothing_else(acting):
    reader = acting("reader")
    for statement in READS:
        reader.execute(statement)
    for statement in [*WRITES, *JANITORS, *NOBODYS]:
        with pytest.raises(pg.InsufficientPrivilege):
            reader.execute(statement)


def test_a_reader_never_sees_the_channel_or_the_idempotency_keys(acting):
    reader = acting("reader")
    for statement in (
        "SELECT channel FROM pgmem.meta",
        "SELECT * FROM pgmem.meta",
        "SELECT meta FROM pgmem.meta",
        "TABLE pgmem.meta",
        "COPY pgmem.meta TO STDOUT",
        "SELECT 1 FROM pgmem.meta WHERE channel LIKE 'p%'",
        "SELECT * FROM pgmem.dedupe",
    ):
        with pytest.raises(pg.InsufficientPrivilege):
            reader.execute(statement)
    leaks = reader.execute(
        "SELECT count(*) FROM pg_stats WHERE schemaname = 'pgmem' AND attname = 'channel'"
    )
    assert leaks.fetchone() == (0,)


def test_reader_sees_neither_subscriptions_nor_groups(acting):
    reader = acting("reader")
    for statement in (
        "SELECT * FROM pgmem.subscriptions",
        "SELECT name FROM pgmem.subscriptions",
        "SELECT * FROM pgmem.imports",
        "SELECT last_value FROM pgmem.subscriptions_token_seq",
        "SELECT nextval('pgmem.subscriptions_token_seq')",
        "SELECT * FROM pgmem.groups",
        "SELECT * FROM pgmem.batches",
        "SELECT * FROM pgmem.delayed",
        "SELECT * FROM pgmem.dead_letters",
        "SELECT * FROM pgmem.leases",
        "SELECT * FROM pgmem.limits",
    ):
        with pytest.raises(pg.InsufficientPrivilege):
            reader.execute(statement)


def test_agent_writes_and_cannot_touch_what_is_written(acting):
    writer = acting("agent")
    for statement in [*WRITES, *READS, "SELECT channel FROM pgmem.meta"]:
        writer.execute(statement)
    for statement in [*JANITORS, *NOBODYS]:
        with pytest.raises(pg.InsufficientPrivilege):
            writer.execute(statement)
    assert writer.execute("SELECT count(*) FROM pgmem.state_snapshot_entries").fetchone() == (0,)


def test_agent_that_says_that_it_trims_still_may_not(acting):
    writer = acting("agent")
    writer.execute("INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '1')")
    with writer.transaction():
        writer.execute(SAYS_IT_TRIMS)
        with pytest.raises(pg.InsufficientPrivilege), writer.transaction():
            writer.execute("DELETE FROM pgmem.events")


def test_janitor_role_trims_and_sweeps_only(acting):
    janitor = acting("janitor")
    for statement in [*WRITES, *READS, "SELECT channel FROM pgmem.meta"]:
        janitor.execute(statement)
    for statement in NOBODYS:
        with pytest.raises(pg.InsufficientPrivilege):
            janitor.execute(statement)
    for statement in JANITORS:
        janitor.execute(statement)


def test_janitor_removes_only_unprotected_events_and_records_them(acting):
    """Call a janitor's way to remove events: it spares and records."""
    janitor = acting("janitor")
    janitor.execute(WRITES[0].replace("('s'", "('a'").replace("'1')", "'1'), ('b', 't', '2')"))
    janitor.execute(f"INSERT INTO pgmem.groups {GROUP}")
    janitor.execute("INSERT INTO pgmem.batches (group_name, positions) VALUES ('g', '{1}')")
    trim = "SELECT number, first, last FROM pgmem.trim_events(%s, '{1,2}', %s)"
    # The first event is claimed, and the group has not read the second one.
    assert janitor.execute(trim, ["", False]).fetchall() == [(0, None, None)]
    assert janitor.execute(trim, ["a", True]).fetchall() == [(0, None, None)]
    assert janitor.execute(trim, ["", True]).fetchall() == [(1, 2, 2)]
    recorded = janitor.execute("SELECT stream, position, removed FROM pgmem.trimmed").fetchall()
    assert recorded == [("", 2, 1)]
    with janitor.transaction():
        janitor.execute(trim, ["", True])
        with pytest.raises(pg.InsufficientPrivilege), janitor.transaction():
            janitor.execute("DELETE FROM pgmem.events")


def test_granting_again_changes_nothing(database_url, roles):
    query = "SELECT relname, relacl::text FROM pg_class WHERE relacl IS NOT NULL ORDER BY 1"
    with psycopg.connect(database_url, autocommit=True) as server:
        before = server.execute(query).fetchall()
        migrate.grant(database_url, **roles)
        assert server.execute(query).fetchall() == before


def test_migration_grants_nothing_on_the_tables_that_it_creates(database_url, acting, roles):
    writer, reader = acting("agent"), acting("reader")
    migrate.downgrade(database_url, revision="base")
    migrate.upgrade(database_url)
    for role, table in ((writer, "subscriptions"), (writer, "trimmed"), (reader, "trimmed")):
        with pytest.raises(pg.InsufficientPrivilege):
            role.execute(f"SELECT * FROM pgmem.{table}")
    migrate.grant(database_url, **roles)
    for statement in [*READS, f"INSERT INTO pgmem.subscriptions {SUBSCRIPTION}"]:
        writer.execute(statement)
    reader.execute("SELECT * FROM pgmem.trimmed")


def test_grant_sql():
    script = migrate.grant_sql("mine", reader='a"; DROP TABLE x; --')
    assert '"a""; DROP TABLE x; --"' in script
    assert script.splitlines()[0] == 'GRANT USAGE ON SCHEMA "mine" TO "a""; DROP TABLE x; --";'
    assert "INSERT" not in script
    # One role a time, or several: each gets its own.
    script = migrate.grant_sql(reader="r", janitor="j")
    assert (
        'GRANT EXECUTE ON FUNCTION "pgmem".trim_events(text, bigint[], boolean) TO "j";' in script
    )
    assert 'GRANT SELECT ON TABLE "pgmem".events TO "r";' in script
    assert '"w"' not in script
    # What vacuums needs a block, whose quotes no role's name ends.
    last = migrate.grant_sql(janitor="j$grant$x").splitlines()[-1]
    assert last.startswith("DO $_grant$ BEGIN IF ")
    assert last.endswith('TO "j$grant$x"; END IF; END $_grant$;')


@pytest.mark.parametrize(
    "role", ["", "x" * 64, "é" * 32, "a\0b", "a\nb", "public", "PUBLIC", "\ud800"]
)
def test_impossible_role_name_is_refused(role):
    with pytest.raises(InvalidInput):
        migrate.grant_sql(reader=role)
    with pytest.raises(InvalidInput):
        migrate.grant_sql(agent=role)
    with pytest.raises(InvalidInput):
        migrate.grant_sql(janitor=role)


def test_grant_without_a_role_is_refused():
    with pytest.raises(InvalidInput):
        migrate.grant_sql()


def test_a_role_that_does_not_exist_grants_nothing_to_the_other(database_url, roles):
    with pytest.raises(DatabaseFault, match="does not exist") as caught:
        migrate.grant(database_url, reader=roles["reader"], agent="no_such_role_here")
    assert caught.value.sqlstate == "42704"
