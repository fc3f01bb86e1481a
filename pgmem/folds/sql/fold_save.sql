-- Store a snapshot of a fold. At one position a fold has one value, so saving it again changes
-- nothing.
WITH saved AS (
    INSERT INTO {schema}.fold_snapshots (name, fold_version, position, value)
    VALUES (%(name)s, %(version)s, %(position)s, %(value)s)
    ON CONFLICT (name, fold_version, position) DO NOTHING
    RETURNING position
)
SELECT count(*), {commit} FROM saved
