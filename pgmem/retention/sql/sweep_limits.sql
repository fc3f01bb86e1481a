-- Remove rate limits that were not used for long from some pages of the table. A limit without a row
-- has its whole burst.
WITH due AS MATERIALIZED (
    SELECT ctid FROM {schema}.limits
    WHERE ctid >= %(first)s::tid AND ctid < %(end)s::tid
      AND arrival <= clock_timestamp() - make_interval(secs => %(idle)s)
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
),
swept AS (
    DELETE FROM {schema}.limits WHERE ctid = ANY (ARRAY(SELECT ctid FROM due)) RETURNING 1
)
SELECT count(*), {pages limits}, {commit} FROM swept
