"""Schemas at a revision, with a row of everything that it knows: for tests of a step."""

from __future__ import annotations

import psycopg

# A row of every kind that 0001 knows.
ROWS_OF_0001 = """
INSERT INTO {0}.events (stream, type, agent_id, payload, metadata, recorded_at) VALUES
    ('s', 't', 'a', '{{"b": 1e300, "a": -0.0, "a": 1.10}}', '{{"trace": 1}}', 'epoch'),
    ('s', 't', NULL, 'null', NULL, 'epoch');
INSERT INTO {0}.events (stream, stream_version, type, payload) VALUES ('v', 1, 't', '[]');
INSERT INTO {0}.events (stream, type, payload, state_key, state_version, state_deleted,
                        state_value, state_expires_at) VALUES
    ('state:k', 'state.put', '{{}}', 'k', 1, false, '{{"n" : 1}}', 'infinity'),
    ('state:gone', 'state.deleted', '{{}}', 'gone', 2, true, NULL, NULL);
INSERT INTO {0}.state (key, value, version, updated_at, expires_at) VALUES
    ('k', '{{"n" : 1}}', 1, 'epoch', 'infinity'), ('gone', NULL, 2, 'epoch', NULL),
    ('expired', '1', 3, 'epoch', 'epoch'), (repeat('é', 256), 'null', 9, 'epoch', NULL);
INSERT INTO {0}.state (key, value, version)
    SELECT 'many' || i, '1', 1 FROM generate_series(1, 999) AS i;
INSERT INTO {0}.dedupe (kind, key, fingerprint, owner, lease_until, completed_at, result) VALUES
    ('append', 'k', '\\x00ff', NULL, NULL, 'epoch', '{{"position": 1}}'),
    ('work', 'k', NULL, 'somebody', 'infinity', NULL, NULL);
INSERT INTO {0}.fold_snapshots (name, fold_version, position, value) VALUES
    ('f', 2, 3, '{{"x": 1}}');
INSERT INTO {0}.state_snapshots (name, position, entries) VALUES ('n', 5, 1), (NULL, 5, 0);
INSERT INTO {0}.state_snapshot_entries (snapshot_id, key, value, version) VALUES (1, 'k', '1', 1);
"""
# And those that 0002 adds.
ROWS_OF_0002 = """
INSERT INTO {0}.consumers (name, selection, position, owner, lease_until, system_identifier,
                           timeline) VALUES
    ('free', '{{"streams": ["s"]}}', 0, NULL, NULL, 1, 1),
    ('held', '{{}}', 5, 'somebody', 'infinity', -7, 3);
INSERT INTO {0}.trimmed (stream, position) VALUES ('', 1), ('s', 2);
UPDATE {0}.state SET recording = 2 WHERE key = 'k';
UPDATE {0}.state SET recording = 0 WHERE key = 'expired';
"""

KEPT_OF_0001 = {
    "events": "*",
    "state": "key, value, version, updated_at, expires_at",
    "dedupe": "*",
    "fold_snapshots": "*",
    "state_snapshots": "*",
    "state_snapshot_entries": "*",
    "meta": "*",
}
"""Its tables, and what of them later revisions keep as it is."""
KEPT_OF_0002 = {
    **KEPT_OF_0001,
    "state": "*",
    "meta": "singleton, channel, created_at",
    "consumers": "*",
    "trimmed": "stream, position, trimmed_at",
}
SEQUENCES_OF_0001 = ("events_position_seq", "dedupe_token_seq", "state_snapshots_id_seq")
SEQUENCES_OF_0002 = (*SEQUENCES_OF_0001, "consumers_token_seq")


def run(url, query):
    """Run statements; gives the rows of the last one."""
    with psycopg.connect(url, autocommit=True) as server:
        cursor = server.execute(query)
        return cursor.fetchall() if cursor.description else []


def rows(url, tables, sequences, schema="pgmem"):
    """All rows, in the server's own words, and where the sequences are."""
    kept = {}
    for table, columns in tables.items():
        query = f"SELECT r::text FROM (SELECT {columns} FROM {schema}.{table}) AS r ORDER BY 1"
        kept[table] = run(url, query)
    for sequence in sequences:
        kept[sequence] = run(url, f"SELECT last_value, is_called FROM {schema}.{sequence}")
    return kept
