-- The newest snapshot of a fold in one version of it.
SELECT position, value::text FROM {schema}.fold_snapshots
WHERE name = %(name)s AND fold_version = %(version)s
ORDER BY position DESC LIMIT 1
