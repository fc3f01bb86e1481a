-- A slot for a member that has none: one that nobody has used for a while, or a new one.
WITH free AS MATERIALIZED (
    SELECT slot FROM {schema}.deliveries
    WHERE group_name = %(group)s AND positions = '{{}}' AND reserved = '{{}}'
      AND handed_at <= clock_timestamp() - make_interval(secs => %(unused)s)
    LIMIT 1
    FOR UPDATE SKIP LOCKED
),
taken AS (
    UPDATE {schema}.deliveries AS slots
    SET token = nextval({delivery_tokens}), handed_at = clock_timestamp()
    FROM free WHERE slots.group_name = %(group)s AND slots.slot = free.slot
    RETURNING slots.slot, slots.token
),
added AS (
    INSERT INTO {schema}.deliveries (group_name, handed_at)
    SELECT name, clock_timestamp() FROM {schema}.groups
    WHERE name = %(group)s AND NOT EXISTS (SELECT FROM free)
    RETURNING slot, token
)
SELECT slot, token, {commit} FROM (SELECT * FROM taken UNION ALL SELECT * FROM added) AS mine
