-- Piece: write the CTE `plan` into a batch row, an empty one or a new one. Emptying and filling a row
-- leaves no dead row, because none of its indexed columns changes.
free AS MATERIALIZED (
    SELECT id FROM {schema}.batches
    WHERE group_name = %(group)s AND cardinality(positions) = 0 AND cardinality(prefetched) = 0
      AND EXISTS (SELECT FROM plan WHERE plan.positions IS NOT NULL)
    LIMIT 1
    FOR UPDATE SKIP LOCKED
),
filled AS (
    UPDATE {schema}.batches AS held
    SET token = nextval({batch_tokens}), member = %(member)s,
        expires_at = clock_timestamp() + make_interval(secs => %(lease)s),
        positions = plan.positions, attempts = plan.attempts, keys = plan.keys,
        failures = plan.failures, losses = plan.losses, claim = %(claim)s, alone = %(alone)s,
        claimed_at = clock_timestamp()
    FROM plan, free
    WHERE held.group_name = %(group)s AND held.id = free.id
    RETURNING held.id, held.token, held.expires_at
),
added AS (
    INSERT INTO {schema}.batches
        (group_name, member, expires_at, positions, attempts, keys, failures, losses, claim, alone,
         claimed_at)
    SELECT %(group)s, %(member)s, clock_timestamp() + make_interval(secs => %(lease)s),
           plan.positions, plan.attempts, plan.keys, plan.failures, plan.losses, %(claim)s,
           %(alone)s, clock_timestamp()
    FROM plan
    WHERE plan.positions IS NOT NULL AND NOT EXISTS (SELECT FROM free)
    RETURNING id, token, expires_at
),
mine AS (SELECT * FROM filled UNION ALL SELECT * FROM added)
