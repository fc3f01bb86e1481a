-- Remove idempotency keys whose time is over, from some pages of the table: no index is needed, and
-- nothing is written to a key that lives. A row that somebody has locked is left to the next time.
WITH due AS MATERIALIZED (
    SELECT ctid FROM {schema}.dedupe
    WHERE ctid >= %(first)s::tid AND ctid < %(end)s::tid AND expires_at <= clock_timestamp()
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
),
swept AS (
    DELETE FROM {schema}.dedupe WHERE ctid = ANY (ARRAY(SELECT ctid FROM due)) RETURNING 1
)
SELECT count(*), {pages dedupe}, {commit} FROM swept
