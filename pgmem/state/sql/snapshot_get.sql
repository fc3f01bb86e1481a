-- One snapshot of the whole state.
SELECT id, name, position, entries, taken_at FROM {schema}.state_snapshots
WHERE id = %(id)s
