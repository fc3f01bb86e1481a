-- Remove slots of groups that have been empty for long, but for a few of each group.
WITH spare AS MATERIALIZED (
    SELECT ctid FROM (
        SELECT ctid, handed_at,
               row_number() OVER (PARTITION BY group_name ORDER BY slot) AS place
        FROM {schema}.deliveries WHERE positions = '{{}}' AND reserved = '{{}}'
    ) AS slot
    WHERE place > %(keep)s
      AND coalesce(handed_at <= clock_timestamp() - make_interval(secs => %(idle)s), true)
    LIMIT %(limit)s
),
due AS MATERIALIZED (
    SELECT ctid FROM {schema}.deliveries
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM spare)) AND positions = '{{}}' AND reserved = '{{}}'
    FOR UPDATE SKIP LOCKED
),
swept AS (
    DELETE FROM {schema}.deliveries WHERE ctid = ANY (ARRAY(SELECT ctid FROM due)) RETURNING 1
)
SELECT count(*), {commit} FROM swept
