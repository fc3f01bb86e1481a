-- Remove expired idempotency keys from some pages of the table. No index is needed, and live keys are
-- not written. Locked rows are left to the next sweep.
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
