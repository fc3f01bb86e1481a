-- Piece: put what the CTE `plan` says into a slot: an empty one, or a new one. Emptied and filled
-- again, a slot leaves no dead row: none of its indexed columns changes.
free AS MATERIALIZED (
    SELECT slot FROM {schema}.deliveries
    WHERE group_name = %(group)s AND positions = '{{}}' AND reserved = '{{}}'
      AND EXISTS (SELECT FROM plan WHERE plan.positions IS NOT NULL)
    LIMIT 1
    FOR UPDATE SKIP LOCKED
),
filled AS (
    UPDATE {schema}.deliveries AS held
    SET token = nextval({delivery_tokens}), consumer = %(member)s,
        lease_until = clock_timestamp() + make_interval(secs => %(lease)s),
        positions = plan.positions, attempts = plan.attempts, keys = plan.keys,
        handed_at = clock_timestamp()
    FROM plan, free
    WHERE held.group_name = %(group)s AND held.slot = free.slot
    RETURNING held.slot, held.token, held.lease_until
),
added AS (
    INSERT INTO {schema}.deliveries
        (group_name, consumer, lease_until, positions, attempts, keys, handed_at)
    SELECT %(group)s, %(member)s, clock_timestamp() + make_interval(secs => %(lease)s),
           plan.positions, plan.attempts, plan.keys, clock_timestamp()
    FROM plan
    WHERE plan.positions IS NOT NULL AND NOT EXISTS (SELECT FROM free)
    RETURNING slot, token, lease_until
),
mine AS (SELECT * FROM filled UNION ALL SELECT * FROM added)
