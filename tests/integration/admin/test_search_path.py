"""No statement uses a function or operator that another role has put on the search_path."""

from __future__ import annotations

import re

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.pq import ExecStatus

from pgmem import Event, Memory
from pgmem.core import statements as sql
from pgmem.core.libpq import compile_statement
from pgmem.errors import SchemaError
from tests.integration.core.test_statements import HOT, MARKS, PIECES, whole
from tests.support.database import sql as run
from tests.support.server import TEMPLATE, fresh_database

_TYPES = (
    "boolean", "smallint", "integer", "bigint", "numeric", "float8", "text", "varchar", "name",
    "json", "jsonb", "timestamptz", "interval", "bytea", "uuid", "oid", "regclass", "xid", "xid8",
    "pg_lsn", "smallint[]", "integer[]", "bigint[]", "text[]", "jsonb[]", "float8[]",
)  # fmt: skip
_OPERATORS = ("=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "||", "@>", "->", "->>")

_HOSTILE = """
CREATE SCHEMA hostile;
DO $$
DECLARE
    l regtype; r regtype; name text;
BEGIN
    FOR l, r IN SELECT a::regtype, b::regtype FROM unnest({types}) AS a, unnest({types}) AS b LOOP
        EXECUTE format('CREATE FUNCTION hostile.run(%s, %s) RETURNS boolean LANGUAGE sql'
                       ' AS ''SELECT NULL::boolean''', l, r);
        FOREACH name IN ARRAY {operators} LOOP
            CONTINUE WHEN to_regoperator(format('pg_catalog.%s(%s,%s)', name, l, r)) IS NOT NULL;
            EXECUTE format('CREATE OPERATOR hostile.%s'
                           ' (FUNCTION = hostile.run, LEFTARG = %s, RIGHTARG = %s)', name, l, r);
        END LOOP;
    END LOOP;
END $$;
-- A function with the exact types of a call wins over the server's own one.
CREATE FUNCTION hostile.json_build_array(integer, json) RETURNS json LANGUAGE sql
    AS 'SELECT NULL::json';
CREATE FUNCTION hostile.array_agg(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT NULL::bigint';
CREATE FUNCTION hostile.cardinality(bigint[]) RETURNS integer LANGUAGE sql AS 'SELECT 0';
"""

_USED = re.compile(r":(?:opno|funcid|opfuncid|aggfnoid|winfnoid) (\d+)|:opnos \(o ([\d ]+)\)")
_OPERATOR_OIDS = "SELECT oid, oid::regoperator::text FROM pg_operator WHERE oprnamespace = "
_FUNCTION_OIDS = "SELECT oid, oid::regprocedure::text FROM pg_proc WHERE pronamespace = "
_INTEGERS, _NUMBERS = (21, 23, 20), (21, 23, 20, 701, 1700)


class Hostile:
    """Prepare statements beside hostile objects, and tell which of those a statement uses."""

    def __init__(self, connection):
        self._connection = connection
        self._trees: list[str] = []
        connection.execute("SET search_path = hostile")
        connection.add_notice_handler(lambda notice: self._trees.append(notice.message_detail))
        self._names = dict(
            row
            for query in (_OPERATOR_OIDS, _FUNCTION_OIDS)
            for row in connection.execute(query + "'hostile'::regnamespace").fetchall()
        )
        connection.execute("SET client_min_messages = log")
        connection.execute("SET debug_print_parse = on")

    def used(self, query: bytes, types=()) -> set[str]:
        """Return the hostile objects in the statement. One that is refused uses none."""
        self._trees.clear()
        result = self._connection.pgconn.prepare(b"", query, list(types))
        if result.status != ExecStatus.COMMAND_OK:
            assert types, result.error_message.decode()
            return set()
        assert self._trees
        found = {
            int(number)
            for tree in self._trees
            for numbers in _USED.findall(tree or "")
            for number in " ".join(numbers).split()
        }
        return {self._names[oid] for oid in found if oid in self._names}

    def used_with_any_types(self, query: bytes) -> set[str]:
        """Return them for the types that a driver may send, as it chooses them by the value."""
        found = self.used(query)
        described = self._connection.pgconn.describe_prepared(b"")
        types = [described.param_type(n) for n in range(described.nparams)]
        for number in _NUMBERS:
            sent = [
                number
                if kind in (701, 1700) or (kind in _INTEGERS and number in _INTEGERS)
                else kind
                for kind in types
            ]
            found |= self.used(query, sent)
        return found


@pytest.fixture(scope="module")
def hostile(pg_server_url):
    with (
        fresh_database(pg_server_url, TEMPLATE) as url,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        types, operators = (f"ARRAY{list(names)}" for names in (_TYPES, _OPERATORS))
        connection.execute(_HOSTILE.format(types=types, operators=operators))
        yield Hostile(connection)


def test_hostile_objects_are_found(hostile):
    assert hostile.used(b"SELECT json_build_array(1, '2'::json)")
    assert hostile.used(b"SELECT 2::float8 * 3::bigint")
    assert not hostile.used(b"SELECT pg_catalog.json_build_array(1, '2'::json), 2 * 3")


NO_TREE = {"schema_listen", "vacuum_table", "event_inline"}
"""The server prints no tree of the first two. The third is a piece."""
OTHER_MARKS = {"lease_list": {"filter": "true"}, "state_keys": {"name": "key"}}
"""Where a fragment of `MARKS` cannot stand."""


@pytest.mark.parametrize("name", [name for name in sql.names() if name not in PIECES | NO_TREE])
def test_statement_uses_only_the_servers_own_objects(hostile, name):
    fragments = tuple((dict(MARKS) | OTHER_MARKS.get(name, {})).items())
    inlined = [(sql.INLINE,)] if "{with_inline}" in whole(name) else []
    inlined += [(sql.INLINE_ALL,)] if "{returned}" in whole(name) else []
    for notify in ("if_free", "always"):
        for inline in ((), *inlined):
            dialect = sql.Dialect("pgmem", "channel", notify, relaxed=True)
            text = sql.statement(name, dialect, (*fragments, *inline))
            assert hostile.used_with_any_types(compile_statement(text).query) == set()


@pytest.mark.parametrize("op", [op for op, _ in HOT], ids=lambda op: op.action)
def test_operation_uses_only_the_servers_own_objects(hostile, op):
    text = sql.statement(op.statement, sql.Dialect("pgmem", "channel"), op.fragments)
    assert hostile.used_with_any_types(compile_statement(text).query) == set()


def test_overload_of_another_role_is_not_run(database_url):
    """Run verbs beside a better overload of a function, as a role that another one attacks."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE public.loot (what text);"
            "CREATE FUNCTION public.json_build_array(integer, json) RETURNS json LANGUAGE plpgsql "
            "AS 'BEGIN INSERT INTO public.loot VALUES (current_user); RETURN ''[]''; END'"
        )
        with Memory(database_url, agent_id="a") as memory:
            memory.events.append("s", Event(type="t", payload={"secret": 42}))
            memory.state.put("balance", 1)
        assert connection.execute("SELECT * FROM public.loot").fetchall() == []


def test_search_path_that_hides_the_servers_operators_is_refused(database_url):
    """Refuse a schema in front of pg_catalog if another role may create in it."""
    options = "-c search_path=public,pg_catalog"
    url = make_conninfo(database_url, options=options)
    with Memory(url):
        pass
    run(database_url, "GRANT CREATE ON SCHEMA public TO PUBLIC")
    with pytest.raises(SchemaError, match="puts public in front of pg_catalog"), Memory(url):
        pass
