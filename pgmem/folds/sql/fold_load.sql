-- Read the newest snapshot of one version of a fold.
SELECT position, value::text FROM {schema}.fold_snapshots
WHERE name = %(name)s AND fold_version = %(version)s
ORDER BY position DESC LIMIT 1
