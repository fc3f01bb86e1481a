-- Give their time to trims that are committed, whoever has left them without one. A mark that is
-- being written right now is its writer's.
WITH undated AS MATERIALIZED (
    SELECT stream FROM {schema}.trimmed WHERE trimmed_at = 'infinity'
    FOR NO KEY UPDATE SKIP LOCKED
),
dated AS (
    UPDATE {schema}.trimmed SET trimmed_at = clock_timestamp()
    WHERE stream IN (SELECT stream FROM undated)
    RETURNING stream
)
SELECT count(*), {commit} FROM dated
