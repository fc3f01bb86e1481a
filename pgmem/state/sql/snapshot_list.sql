-- Read the descriptions of snapshots, newest first.
SELECT id, name, position, entries, taken_at FROM {schema}.state_snapshots
WHERE %(name)s::text IS NULL OR name = %(name)s
ORDER BY id DESC LIMIT %(limit)s
