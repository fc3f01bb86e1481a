-- Remove leases from some pages of the table that had neither a holder nor a waiter for long. The next
-- acquisition inserts the row again, with a new token.
WITH due AS MATERIALIZED (
    SELECT ctid FROM {schema}.leases
    WHERE ctid >= %(first)s::tid AND ctid < %(end)s::tid
      AND {include lease_unused}
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
),
swept AS (
    DELETE FROM {schema}.leases WHERE ctid = ANY (ARRAY(SELECT ctid FROM due)) RETURNING 1
)
SELECT count(*), {pages leases}, {commit} FROM swept
