-- Read the description of one snapshot.
SELECT id, name, position, entries, taken_at FROM {schema}.state_snapshots
WHERE id = %(id)s
