-- Delete the snapshots of a fold, or of one version of it.
WITH deleted AS (
    DELETE FROM {schema}.fold_snapshots
    WHERE name = %(name)s AND (%(version)s::int IS NULL OR fold_version = %(version)s)
    RETURNING position
)
SELECT count(*), {commit} FROM deleted
