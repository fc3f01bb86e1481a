-- Hand a batch whose lease expired to another member. Events after their last attempt, and those that
-- a forced trim removed, become dead letters. Events beyond those asked for are delayed.
WITH {include group_before},
{include group_alone},
found AS MATERIALIZED (
    SELECT id, member, positions, attempts, keys
    FROM {schema}.batches
    WHERE group_name = %(group)s AND positions <> '{{}}' AND expires_at <= clock_timestamp()
      AND EXISTS (SELECT FROM before WHERE before.same_history) AND EXISTS (SELECT FROM locked)
    ORDER BY positions[1]
    LIMIT 1
    FOR UPDATE SKIP LOCKED
),
touched AS (
    UPDATE {schema}.groups AS held SET updated_at = clock_timestamp()
    WHERE held.name = %(group)s AND EXISTS (SELECT FROM found)
),
each AS MATERIALIZED (
    SELECT one.position, coalesce(one.attempts, 1) AS attempts, one.key,
           event.position IS NOT NULL AS kept,
           count(*) FILTER (WHERE event.position IS NOT NULL
                            AND coalesce(one.attempts, 1) < before.max_attempts)
               OVER (ORDER BY one.position) AS place,
           coalesce(one.attempts, 1) < before.max_attempts AS alive
    FROM found CROSS JOIN before
    CROSS JOIN LATERAL unnest(found.positions, found.attempts, found.keys)
        AS one (position, attempts, key)
    LEFT JOIN {schema}.events AS event ON event.position = one.position
),
dead_lettered AS (
    INSERT INTO {schema}.dead_letters (group_name, position, key, attempts, member, error)
    SELECT %(group)s, each.position, each.key, each.attempts, found.member,
           CASE WHEN each.kept
           THEN 'its lease ran out, and it had been handed out ' || each.attempts || ' times'
           ELSE 'retention has removed the event' END
    FROM each CROSS JOIN found
    WHERE NOT (each.kept AND each.alive)
    ON CONFLICT (group_name, position) DO UPDATE
        SET attempts = excluded.attempts, member = excluded.member, error = excluded.error,
            failed_at = clock_timestamp()
),
rest AS (
    INSERT INTO {schema}.delayed (group_name, position, key, attempts, available_at, error)
    SELECT %(group)s, position, key, attempts, clock_timestamp(), 'its lease ran out'
    FROM each WHERE kept AND alive AND place > %(limit)s
),
plan AS MATERIALIZED (
    SELECT array_agg(position ORDER BY position) AS positions,
           array_agg(attempts + 1 ORDER BY position) AS attempts,
           array_agg(key ORDER BY position) AS keys, NULL::bigint AS position
    FROM each WHERE kept AND alive AND place <= %(limit)s
),
taken AS (
    UPDATE {schema}.batches AS held
    SET token = nextval({batch_tokens}), member = %(member)s,
        expires_at = clock_timestamp() + make_interval(secs => %(lease)s),
        positions = coalesce(plan.positions, '{{}}'), attempts = plan.attempts,
        keys = CASE WHEN found.keys IS NOT NULL THEN plan.keys END,
        claimed_at = clock_timestamp()
    FROM plan, found
    WHERE held.group_name = %(group)s AND held.id = found.id
    RETURNING held.id, held.token, held.expires_at
),
mine AS (SELECT taken.* FROM taken, plan WHERE plan.positions IS NOT NULL)
({include group_front})
UNION ALL
(SELECT {include event_columns} FROM {schema}.events
 WHERE position IN (SELECT position FROM each WHERE kept AND alive AND place <= %(limit)s)
 ORDER BY position)
