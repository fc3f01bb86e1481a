"""Describe a schema from the catalogs, and compare two descriptions.

`pgmem.migrate.check` compares a database with the tables of `pgmem.admin.tables`. Those are created
as temporary tables in a transaction that is rolled back, so that both descriptions come from the
same server. The drift test compares everything. `check` ignores what a team may add, such as an
index or a trigger.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, text

from pgmem.admin.tables import build

Description = dict[str, dict[str, str]]
"""Kind of object → its name → its definition, without the schema's name."""

# Each query gives (name, definition); :schema is the schema's oid.
_QUERIES: Final = {
    "table": """
        SELECT c.relname, concat_ws(' ', c.relkind::text, c.relrowsecurity::text,
               (SELECT string_agg(o, ', ' ORDER BY o) FROM unnest(c.reloptions) AS o))
          FROM pg_class AS c
         WHERE c.relnamespace = :schema AND c.relkind IN ('r', 'p', 'v', 'm', 'f')""",
    "column": """
        SELECT c.relname || '.' || a.attname,
               concat_ws(' ', format_type(a.atttypid, a.atttypmod),
                         'collate ' || nullif(l.collname, 'default'),
                         'storage ' || nullif(a.attstorage, t.typstorage)::text,
                         CASE WHEN a.attnotnull THEN 'not null' END,
                         'identity ' || nullif(a.attidentity::text, ''),
                         'generated ' || nullif(a.attgenerated::text, ''),
                         'default ' || pg_get_expr(d.adbin, d.adrelid))
          FROM pg_class AS c
          JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          JOIN pg_type AS t ON t.oid = a.atttypid
          LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
          LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
         WHERE c.relnamespace = :schema AND c.relkind IN ('r', 'p')""",
    # Not-null constraints ('n', since 18) show in the columns.
    "constraint": """
        SELECT c.relname || '.' || k.conname,
               pg_get_constraintdef(k.oid) || CASE WHEN k.convalidated THEN '' ELSE ' !' END
          FROM pg_class AS c JOIN pg_constraint AS k ON k.conrelid = c.oid
         WHERE c.relnamespace = :schema AND k.contype <> 'n'""",
    "index": """
        SELECT r.relname || '.' || c.relname,
               pg_get_indexdef(c.oid) || CASE WHEN i.indisvalid THEN '' ELSE ' !' END
          FROM pg_class AS c
          JOIN pg_index AS i ON i.indexrelid = c.oid
          JOIN pg_class AS r ON r.oid = i.indrelid
         WHERE c.relnamespace = :schema""",
    "trigger": """
        SELECT c.relname || '.' || t.tgname,
               pg_get_triggerdef(t.oid) || ' enabled ' || t.tgenabled::text
          FROM pg_class AS c JOIN pg_trigger AS t ON t.tgrelid = c.oid AND NOT t.tgisinternal
         WHERE c.relnamespace = :schema""",
    "function": """
        SELECT p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
               concat_ws(' ', p.prorettype::regtype::text, p.prosecdef::text, p.provolatile::text,
                         array_to_string(p.proconfig, ', '), p.prosrc)
          FROM pg_proc AS p
         WHERE p.pronamespace = :schema""",
    "sequence": """
        SELECT c.relname,
               concat_ws(' ', format_type(s.seqtypid, NULL), 'start', s.seqstart, 'by',
                         s.seqincrement, 'from', s.seqmin, 'to', s.seqmax, 'cache', s.seqcache,
                         CASE WHEN s.seqcycle THEN 'cycle' END,
                         'of ' || (SELECT r.relname || '(' || a.attname || ')'
                                     FROM pg_depend AS d
                                     JOIN pg_class AS r ON r.oid = d.refobjid
                                     JOIN pg_attribute AS a
                                       ON a.attrelid = r.oid AND a.attnum = d.refobjsubid
                                    WHERE d.objid = c.oid AND d.deptype IN ('a', 'i')
                                      AND d.classid = 'pg_class'::regclass
                                      AND d.refclassid = 'pg_class'::regclass))
          FROM pg_class AS c JOIN pg_sequence AS s ON s.seqrelid = c.oid
         WHERE c.relnamespace = :schema""",
}

# A team may add these without harm, and a plain index.
_EXTRA_IS_HARMLESS: Final = frozenset({"table", "trigger", "function", "sequence"})


def describe(connection: Connection, schema: str) -> Description:
    """Describe the objects of `schema` as the server does; ``pg_temp`` is this session's."""
    if schema == "pg_temp":
        oid, name = connection.execute(
            text("SELECT oid::bigint, nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()")
        ).one()
    else:
        found = text("SELECT oid::bigint, nspname FROM pg_namespace WHERE nspname = :name")
        oid, name = connection.execute(found, {"name": schema}).one()
    # Whether a definition names the schema depends on the search_path, so the name is removed.
    names = "|".join(re.escape(part) for part in {name, f'"{name}"', schema, f'"{schema}"'})
    prefix = re.compile(rf'(?<![\w"])(?:{names})\.')
    return {
        kind: {
            row[0]: prefix.sub("", row[1])
            for row in connection.execute(text(query.replace("::", r"\:\:")), {"schema": oid})
        }
        for kind, query in _QUERIES.items()
    }


def expected(connection: Connection) -> Description:
    """Describe `pgmem.admin.tables`. It creates temporary tables: roll the transaction back."""
    build("pg_temp").metadata.create_all(connection, checkfirst=False)
    return describe(connection, "pg_temp")


def differences(want: Description, have: Description, *, exact: bool = False) -> Iterator[str]:
    """Yield a sentence for each object that is missing, different, or foreign.

    Args:
        want: the expected description.
        have: the description of the database.
        exact: True reports harmless additions, too.
    """
    for kind, objects in want.items():
        there = have[kind]
        for name, definition in sorted(objects.items()):
            if name not in there:
                yield f"{kind} {name} is missing"
            elif there[name] != definition:
                yield f"{kind} {name} is {there[name]!r}, expected {definition!r}"
        for name in sorted(there.keys() - objects.keys()):
            if exact or not _harmless(kind, name, there[name], want):
                yield f"{kind} {name} is not pgmem's: {there[name]!r}"


def _harmless(kind: str, name: str, definition: str, want: Description) -> bool:
    if kind in _EXTRA_IS_HARMLESS:
        return True
    table = name.partition(".")[0]
    if table not in want["table"]:
        return True  # of the team's own table
    # A unique index refuses rows. Any index on `state` ends its HOT updates. A column or a
    # constraint may refuse what pgmem writes.
    return kind == "index" and " UNIQUE " not in definition and table != "state"
