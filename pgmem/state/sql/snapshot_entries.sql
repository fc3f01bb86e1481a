-- What a snapshot holds, in the order of the keys.
SELECT entry.key, entry.value::text, entry.version, snapshot.taken_at, entry.expires_at
FROM {schema}.state_snapshot_entries AS entry
JOIN {schema}.state_snapshots AS snapshot ON snapshot.id = entry.snapshot_id
WHERE entry.snapshot_id = %(id)s AND entry.key > %(after)s
ORDER BY entry.key LIMIT %(limit)s
