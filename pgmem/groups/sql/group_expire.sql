-- Take back what members lost: the events of batches whose lease expired, and of claims whose answer
-- did not arrive. They are delayed, due at once, and the token is fenced. An expired lease counts as
-- an attempt only if its member had this event alone, because otherwise another event may have
-- killed the member. After their last attempt events become dead letters, and so do those that a
-- forced trim removed.
WITH {include group_alone},
found AS MATERIALIZED (
    SELECT id, member, positions, attempts, keys, failures, losses, prefetched,
           claim = ANY (%(claims)s::bigint[]) IS TRUE AS unanswered,
           alone AND cardinality(positions) = 1
               AND claim = ANY (%(claims)s::bigint[]) IS NOT TRUE AS counted
    FROM {schema}.batches
    WHERE group_name = %(group)s AND positions <> '{{}}'
      AND (expires_at <= clock_timestamp() OR claim = ANY (%(claims)s::bigint[]))
      AND EXISTS (SELECT FROM locked)
      AND EXISTS (
          SELECT FROM {schema}.groups AS stored CROSS JOIN (
{include history}
          ) AS present
          WHERE stored.name = %(group)s
            AND stored.system_identifier = present.system_identifier
            AND stored.timeline = present.timeline)
    ORDER BY positions[1]
    LIMIT %(most)s
    FOR UPDATE SKIP LOCKED
),
touched AS (
    UPDATE {schema}.groups AS held SET updated_at = clock_timestamp()
    WHERE held.name = %(group)s AND EXISTS (SELECT FROM found)
),
failed AS MATERIALIZED (
    SELECT one.position, coalesce(one.attempts, 1) AS attempts, one.key, one.failures, found.losses,
           found.member, found.counted, found.unanswered, event.position IS NOT NULL AS kept,
           'its lease expired while the member handled it: the member was killed, or took longer '
           'than the lease' AS error,
           NOT (event.position IS NOT NULL AND NOT (
               found.counted AND coalesce(one.attempts, 1) >= locked.max_attempts)) AS dead
    FROM found CROSS JOIN locked
    CROSS JOIN LATERAL unnest(found.positions, found.attempts, found.keys, found.failures)
        AS one (position, attempts, key, failures)
    LEFT JOIN {schema}.events AS event ON event.position = one.position
    UNION ALL
    -- Prefetched events were with no member.
    SELECT one.position, 1, NULL, NULL, 0, found.member, false, true, true, NULL, false
    FROM found CROSS JOIN LATERAL unnest(found.prefetched) AS one (position)
),
dead_lettered AS (
    INSERT INTO {schema}.dead_letters
        (group_name, position, key, attempts, member, error, failures)
    SELECT %(group)s, position, key,
           CASE WHEN counted THEN attempts ELSE attempts - 1 END, member,
           CASE WHEN kept THEN error ELSE 'retention has removed the event' END,
           CASE WHEN counted THEN {include failure} ELSE failures END
    FROM failed WHERE dead
    ON CONFLICT (group_name, position) DO UPDATE
        SET attempts = excluded.attempts, member = excluded.member, error = excluded.error,
            failures = excluded.failures, failed_at = clock_timestamp()
),
back AS (
    INSERT INTO {schema}.delayed
        (group_name, position, key, attempts, available_at, error, losses, failures)
    SELECT %(group)s, position, key,
           CASE WHEN counted THEN attempts ELSE attempts - 1 END, clock_timestamp(),
           CASE WHEN NOT unanswered THEN error END,
           CASE WHEN unanswered THEN losses ELSE losses + 1 END,
           CASE WHEN counted THEN {include failure} ELSE failures END
    FROM failed WHERE NOT dead
    RETURNING position
),
fenced AS (
    UPDATE {schema}.batches AS held
    SET token = nextval({batch_tokens}), positions = '{{}}', attempts = NULL, keys = NULL,
        failures = NULL, prefetched = '{{}}'
    FROM found WHERE held.group_name = %(group)s AND held.id = found.id
),
target AS (
    SELECT CASE WHEN (SELECT count(*) FROM back) > 1 THEN {include group_target} END AS payload
)
SELECT (SELECT count(*) FROM found), {commit}, {notify_target} FROM target
