-- Set the time of committed trims that have none. A trim that is being written is left alone.
WITH pending AS MATERIALIZED (
    SELECT stream FROM {schema}.trimmed WHERE trimmed_at = 'infinity'
    FOR NO KEY UPDATE SKIP LOCKED
),
dated AS (
    UPDATE {schema}.trimmed SET trimmed_at = clock_timestamp()
    WHERE stream IN (SELECT stream FROM pending)
    RETURNING stream
)
SELECT count(*), {commit} FROM dated
