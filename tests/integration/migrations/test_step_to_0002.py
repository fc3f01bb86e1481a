"""The step from 0001 to 0002, and back, in a schema that is in use."""

import psycopg
import pytest

from pgmem import migrate
from pgmem.errors import DatabaseFault, SchemaError
from tests.support import revisions
from tests.support.revisions import KEPT_OF_0001, ROWS_OF_0001, SEQUENCES_OF_0001, run


@pytest.fixture
def url(make_database):
    """A database at 0001, with rows in every table."""
    url = make_database()
    migrate.upgrade(url, revision="0001")
    run(url, ROWS_OF_0001.format("pgmem"))
    return url


def rows(url, schema="pgmem"):
    return revisions.rows(url, KEPT_OF_0001, SEQUENCES_OF_0001, schema)


def recordings(url, schema="pgmem"):
    return run(url, f"SELECT recording, count(*) FROM {schema}.state GROUP BY 1 ORDER BY 1")


def up(url):
    migrate.upgrade(url, revision="0002")


def sound(url, schema="pgmem"):
    """Whether the later revisions can be made of it, and all is then as it should be."""
    migrate.upgrade(url, schema=schema)
    return migrate.check(url, schema) == []


def by_one_step(url):
    migrate.upgrade(url, revision="+1")


def by_sql(url):
    run(url, migrate.sql(from_revision="0001", revision="0002"))


@pytest.mark.parametrize("step", [up, by_one_step, by_sql])
def test_up_with_rows_keeps_every_one(url, step):
    before = rows(url)
    assert [len(before[table]) for table in KEPT_OF_0001] == [5, 1003, 2, 1, 2, 1, 1]
    step(url)
    assert migrate.current(url) == "0002"
    assert rows(url) == before
    assert recordings(url) == [(1, 1003)]  # nobody has a copy of what was written before
    for table in ("consumers", "trimmed"):
        assert run(url, f"SELECT * FROM pgmem.{table}") == []
    with pytest.raises(psycopg.Error, match="append-only"):
        run(url, "DELETE FROM pgmem.events")
    assert sound(url)


def test_down_keeps_what_0001_knows_and_up_again_begins_anew(url):
    before = rows(url)
    up(url)
    run(url, "UPDATE pgmem.state SET recording = 2 WHERE key = 'k'")
    run(url, "UPDATE pgmem.state SET recording = 0 WHERE key = 'expired'")
    run(
        url,
        "INSERT INTO pgmem.consumers (name, selection, position, system_identifier, timeline) "
        "VALUES ('c', '{}', 5, 1, 1); INSERT INTO pgmem.trimmed (stream, position) VALUES ('', 1)",
    )
    migrate.downgrade(url, revision="0001")
    assert migrate.current(url) == "0001"
    assert rows(url) == before
    with pytest.raises(SchemaError):
        migrate.check(url)
    up(url)
    assert rows(url) == before
    assert recordings(url) == [(1, 1003)]
    assert run(url, "SELECT * FROM pgmem.consumers") == []
    assert sound(url)


def test_down_leaves_nothing_of_0002(make_database):
    url = make_database()
    for schema in ("first", "second"):
        migrate.upgrade(url, schema=schema, revision="0001")
    migrate.upgrade(url, schema="second", revision="0002")
    migrate.downgrade(url, schema="second", revision="-1")
    with migrate.engine(url).connect() as connection:
        first, second = (migrate.describe(connection, schema) for schema in ("first", "second"))
    assert list(migrate.differences(first, second, exact=True)) == []


def test_up_does_not_write_the_state_anew(url):
    file = "SELECT pg_relation_filenode('pgmem.state')"
    before = run(url, file)
    up(url)
    assert run(url, file) == before


def test_the_step_is_one_transaction(url):
    before = rows(url)
    run(url, "CREATE TABLE pgmem.trimmed (mine int)")  # the last thing that the step makes
    with pytest.raises(DatabaseFault, match="already exists"):
        up(url)
    with pytest.raises(psycopg.errors.DuplicateTable):
        by_sql(url)
    assert migrate.current(url) == "0001"
    assert rows(url) == before
    assert run(url, "SELECT to_regclass('pgmem.consumers')::text") == [(None,)]
    with pytest.raises(psycopg.errors.UndefinedColumn):
        recordings(url)


def test_a_view_of_the_team_survives_the_step_up_and_stops_the_step_down(url):
    run(url, "CREATE VIEW public.old AS SELECT * FROM pgmem.state")
    up(url)
    assert run(url, "SELECT count(*) FROM public.old") == [(1003,)]
    migrate.downgrade(url, revision="0001")
    up(url)
    run(url, "CREATE VIEW public.new AS SELECT * FROM pgmem.state")
    with pytest.raises(DatabaseFault, match="depend"):
        migrate.downgrade(url, revision="0001")
    assert migrate.current(url) == "0002"
    assert sound(url)


def test_the_step_in_another_schema_leaves_the_first_alone(url):
    before = rows(url)
    migrate.upgrade(url, schema="select", revision="0001")
    run(url, ROWS_OF_0001.format('"select"'))
    there = rows(url, '"select"')
    run(url, migrate.sql("select", from_revision="0001", revision="0002"))
    assert (rows(url, '"select"'), recordings(url, '"select"')) == (there, [(1, 1003)])
    assert sound(url, "select")
    assert (migrate.current(url), rows(url)) == ("0001", before)


def test_the_sql_of_the_step_alone():
    script = migrate.sql("mine", from_revision="0001", revision="0002")
    assert script.startswith("BEGIN;")
    assert script.rstrip().endswith("COMMIT;")
    for absent in ("CREATE SCHEMA", "events", "dedupe", "{schema}"):
        assert absent not in script
    assert "SET LOCAL search_path = pg_catalog, pg_temp" in script
    assert """nextval('"mine".consumers_token_seq'::regclass)""" in script
    # The first revision alone, too: both together make the whole.
    first = migrate.sql("mine", revision="0001")
    assert "consumers" not in first
    assert "recording smallint" not in first
