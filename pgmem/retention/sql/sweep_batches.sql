-- Remove idle, empty batch rows of groups. Each group keeps a few.
WITH spare AS MATERIALIZED (
    SELECT ctid FROM (
        SELECT ctid, claimed_at,
               row_number() OVER (PARTITION BY group_name ORDER BY id) AS place
        FROM {schema}.batches WHERE cardinality(positions) = 0 AND cardinality(prefetched) = 0
    ) AS empty
    WHERE place > %(keep)s
      AND coalesce(claimed_at <= clock_timestamp() - make_interval(secs => %(idle)s), true)
    LIMIT %(limit)s
),
due AS MATERIALIZED (
    SELECT ctid FROM {schema}.batches
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM spare)) AND cardinality(positions) = 0 AND cardinality(prefetched) = 0
    FOR UPDATE SKIP LOCKED
),
swept AS (
    DELETE FROM {schema}.batches WHERE ctid = ANY (ARRAY(SELECT ctid FROM due)) RETURNING 1
)
SELECT count(*), {commit} FROM swept
