-- Hand the next events of an ordered group to a member. An event whose key is with a member, or
-- delayed, is delayed behind it. Several of one key may be in one batch, in order.
WITH {include group_before},
{include group_current},
ahead AS MATERIALIZED (
    SELECT found.position, left({key}, 512) AS key
    FROM current CROSS JOIN LATERAL (
        SELECT position, stream, payload FROM {schema}.events
        WHERE position > current.position AND position <= %(until)s {filter}
        ORDER BY position LIMIT %(window)s
    ) AS found
),
looked AS MATERIALIZED (
    SELECT ahead.position, ahead.key, may.go,
           count(*) FILTER (WHERE may.go) OVER (ORDER BY ahead.position) AS place
    FROM ahead CROSS JOIN LATERAL (
        SELECT ahead.key IS NULL
               OR (ahead.key NOT IN (SELECT key FROM busy) AND NOT EXISTS (
                   SELECT FROM {schema}.delayed
                   WHERE group_name = %(group)s AND delayed.key = ahead.key)) AS go
    ) AS may
),
taken AS MATERIALIZED (
    SELECT * FROM looked
    WHERE place < %(limit)s OR (place = %(limit)s AND go)
),
plan AS MATERIALIZED (
    SELECT CASE WHEN (SELECT count(*) FROM ahead) < %(window)s
                     AND (SELECT count(*) FROM taken) = (SELECT count(*) FROM ahead)
                THEN greatest(%(until)s, current.position)
                ELSE coalesce(max(taken.position), current.position) END AS position,
           current.position AS start,
           array_agg(taken.position ORDER BY taken.position) FILTER (WHERE taken.go) AS positions,
           NULL::integer[] AS attempts,
           array_agg(taken.key ORDER BY taken.position) FILTER (WHERE taken.go) AS keys,
           0 AS losses, NULL::jsonb[] AS failures
    FROM current LEFT JOIN taken ON true
    GROUP BY current.position
),
waiting AS (
    INSERT INTO {schema}.delayed (group_name, position, key, attempts, available_at)
    SELECT %(group)s, position, key, 0, clock_timestamp() FROM taken WHERE NOT go
),
moved AS (
    UPDATE {schema}.groups AS held
    SET position = plan.position, updated_at = clock_timestamp()
    FROM plan
    WHERE held.name = %(group)s
      AND (EXISTS (SELECT FROM taken) OR plan.position >= plan.start + %(skip)s)
),
{include group_write_batch}
({include group_front})
UNION ALL
(SELECT {include event_columns} FROM {schema}.events
 WHERE position IN (SELECT position FROM taken WHERE go) ORDER BY position)
