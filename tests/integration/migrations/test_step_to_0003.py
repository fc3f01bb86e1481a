"""The step from 0002 to 0003, and back, in a schema that is in use."""

import psycopg
import pytest

from pgmem import migrate
from pgmem.errors import DatabaseFault, SchemaError
from tests.support import revisions
from tests.support.revisions import (
    KEPT_OF_0002,
    ROWS_OF_0001,
    ROWS_OF_0002,
    SEQUENCES_OF_0002,
    run,
)

MADE = ("groups", "deliveries", "parked", "dead_letters", "leases", "limits", "policies")
ROWS = """
INSERT INTO pgmem.groups (name, selection, max_attempts, position, system_identifier, timeline)
    VALUES ('g', '{}', 5, 3, 1, 1);
INSERT INTO pgmem.deliveries (group_name, positions) VALUES ('g', '{2,3}');
INSERT INTO pgmem.parked (group_name, position, attempts, available_at) VALUES ('g', 1, 1, 'epoch');
INSERT INTO pgmem.dead_letters (group_name, position, attempts) VALUES ('g', 1, 5);
INSERT INTO pgmem.leases (name) VALUES ('l');
INSERT INTO pgmem.limits (name, arrival) VALUES ('l', 'epoch');
INSERT INTO pgmem.policies (kind, name, max_count) VALUES ('events', '', 7);
UPDATE pgmem.trimmed SET removed = 9
"""
TRIM = """
BEGIN;
SELECT set_config('retention.trimming', pg_current_xact_id()::text, true);
DELETE FROM pgmem.events WHERE position = 1;
COMMIT
"""


@pytest.fixture
def url(make_database):
    """A database at 0002, with rows in every table."""
    url = make_database()
    migrate.upgrade(url, revision="0002")
    run(url, ROWS_OF_0001.format("pgmem") + ROWS_OF_0002.format("pgmem"))
    return url


def rows(url, schema="pgmem"):
    return revisions.rows(url, KEPT_OF_0002, SEQUENCES_OF_0002, schema)


def trigger(url):
    return run(url, "SELECT prosrc FROM pg_proc WHERE pronamespace = 'pgmem'::regnamespace")


def up(url):
    migrate.upgrade(url, revision="0003")


def sound(url, schema="pgmem"):
    """Whether the later revisions can be made of it, and all is then as it should be."""
    migrate.upgrade(url, schema=schema)
    return migrate.check(url, schema) == []


def by_one_step(url):
    migrate.upgrade(url, revision="+1")


def by_sql(url):
    run(url, migrate.sql(from_revision="0002", revision="0003"))


@pytest.mark.parametrize("step", [up, by_one_step, by_sql])
def test_up_with_rows_keeps_every_one(url, step):
    before = rows(url)
    assert [len(before[table]) for table in KEPT_OF_0002] == [5, 1003, 2, 1, 2, 1, 1, 2, 2]
    step(url)
    assert migrate.current(url) == "0003"
    assert rows(url) == before
    assert run(url, "SELECT DISTINCT removed FROM pgmem.trimmed") == [(0,)]
    for table in MADE:
        assert run(url, f"SELECT * FROM pgmem.{table}") == []
    for statement in ("DELETE FROM pgmem.events", "TRUNCATE pgmem.events"):
        with pytest.raises(psycopg.Error, match="append-only"):
            run(url, statement)
    run(url, TRIM)  # who says that it trims may
    assert run(url, "SELECT min(position) FROM pgmem.events") == [(2,)]
    assert sound(url)


def test_down_keeps_what_0002_knows_and_up_again_begins_anew(url):
    before, refusing = rows(url), trigger(url)
    up(url)
    assert trigger(url) != refusing
    run(url, ROWS)
    migrate.downgrade(url, revision="0002")
    assert migrate.current(url) == "0002"
    assert (rows(url), trigger(url)) == (before, refusing)
    with pytest.raises(psycopg.Error, match="append-only"):
        run(url, TRIM)  # nobody may any more
    with pytest.raises(SchemaError):
        migrate.check(url)
    up(url)
    assert rows(url) == before
    assert run(url, "SELECT DISTINCT removed FROM pgmem.trimmed") == [(0,)]
    for table in MADE:
        assert run(url, f"SELECT * FROM pgmem.{table}") == []
    assert sound(url)


def test_down_leaves_nothing_of_0003(make_database):
    url = make_database()
    for schema in ("first", "second"):
        migrate.upgrade(url, schema=schema, revision="0002")
    migrate.upgrade(url, schema="second", revision="0003")
    migrate.downgrade(url, schema="second", revision="-1")
    with migrate.engine(url).connect() as connection:
        first, second = (migrate.describe(connection, schema) for schema in ("first", "second"))
    assert list(migrate.differences(first, second, exact=True)) == []


def test_the_step_is_one_transaction(url):
    before, refusing = rows(url), trigger(url)
    run(url, "CREATE TABLE pgmem.policies (mine int)")  # the last table that the step makes
    with pytest.raises(DatabaseFault, match="already exists"):
        up(url)
    with pytest.raises(psycopg.errors.DuplicateTable):
        by_sql(url)
    assert migrate.current(url) == "0002"
    assert (rows(url), trigger(url)) == (before, refusing)
    assert run(url, "SELECT to_regclass('pgmem.groups')::text") == [(None,)]


def test_up_writes_no_table_anew(url):
    files = (
        "SELECT relname, pg_relation_filenode(oid) FROM pg_class WHERE relkind = 'r' "
        "AND relnamespace = 'pgmem'::regnamespace AND relname IN ('events', 'state', 'trimmed')"
    )
    before = run(url, files)
    up(url)
    assert run(url, files) == before


def test_the_step_in_another_schema_leaves_the_first_alone(url):
    before, refusing = rows(url), trigger(url)
    migrate.upgrade(url, schema="select", revision="0002")
    run(url, ROWS_OF_0001.format('"select"') + ROWS_OF_0002.format('"select"'))
    there = rows(url, '"select"')
    run(url, migrate.sql("select", from_revision="0002", revision="0003"))
    assert rows(url, '"select"') == there
    assert sound(url, "select")
    assert (migrate.current(url), rows(url), trigger(url)) == ("0002", before, refusing)


def test_the_sql_of_the_step_alone():
    script = migrate.sql("mine", from_revision="0002", revision="0003")
    assert script.startswith("BEGIN;")
    assert script.rstrip().endswith("COMMIT;")
    for absent in ("CREATE SCHEMA", "dedupe", 'TABLE "mine".state', "{schema}", "{{", "}}"):
        assert absent not in script
    assert "SET LOCAL search_path = pg_catalog, pg_temp" in script
    assert """nextval('"mine".leases_token_seq'::regclass)""" in script
    # The revisions before it alone, too: all together make the whole.
    earlier = migrate.sql("mine", revision="0002")
    assert "leases" not in earlier
    assert "retention.trimming" not in earlier
