-- Acknowledge a whole batch and hand out the next one in the same batch row, or in an empty one.
-- Nearly every claim is this one, and it does a third of the work of group_claim. If anything comes
-- first (an expired lease, a due event, no new event, a lost batch), it does nothing and gives no
-- row, and group_claim finds the cause. A claim with nothing to acknowledge does learn that there is
-- no new event, because most waiting members learn only that. The order is the same: lock the
-- group's row, read the newest position from it, then look for events behind it. The batch row is
-- written before the group moves, so that a lost batch moves nothing. Events beyond those asked for
-- are prefetched in the batch row: at most a quarter of the member's share of what there is, so that
-- other members need not take them back in the end.
WITH before AS MATERIALIZED (
    SELECT held.position FROM {schema}.groups AS held CROSS JOIN (
{include history}
    ) AS present
    WHERE held.name = %(group)s
      AND held.system_identifier = present.system_identifier
      AND held.timeline = present.timeline
      AND present.timeline = coalesce(%(timeline)s::integer, present.timeline)
      AND held.revision = %(revision)s
      AND NOT EXISTS (SELECT FROM {schema}.trimmed
                      WHERE trimmed.position > held.position AND trimmed_at > held.started_at {trimmed})
      AND NOT EXISTS (SELECT FROM {schema}.batches
                      WHERE group_name = %(group)s
                        AND (positions <> '{{}}' AND expires_at <= clock_timestamp()
                             OR {include prefetch_left}))
      AND NOT EXISTS (SELECT FROM {schema}.delayed
                      WHERE group_name = %(group)s AND available_at <= clock_timestamp())
      AND NOT EXISTS (SELECT FROM {schema}.delayed
                      WHERE group_name = %(group)s OFFSET %(delayed_most)s - 1)
),
locked AS MATERIALIZED (
    SELECT held.position FROM {schema}.groups AS held
    WHERE held.name = %(group)s AND held.revision = %(revision)s
      AND EXISTS (SELECT FROM before WHERE position < %(until)s)
    FOR NO KEY UPDATE
),
batch AS MATERIALIZED (
    SELECT found.*
    FROM locked CROSS JOIN LATERAL (
        SELECT * FROM {schema}.events
        WHERE position > locked.position AND position <= %(until)s {filter}
        ORDER BY position LIMIT %(limit)s::bigint
            * (1 + least(%(prefetching)s, (%(until)s - locked.position)
            / (SELECT 4 * %(limit)s::bigint * count(*) FROM {schema}.batches
               WHERE group_name = %(group)s)))
    ) AS found
),
plan AS MATERIALIZED (
    SELECT max(position) AS position, array_agg(position) AS positions
    FROM batch HAVING count(*) > 0
),
mine AS (
    UPDATE {schema}.batches AS held
    SET token = nextval({batch_tokens}), member = %(member)s,
        expires_at = clock_timestamp() + make_interval(secs => %(lease)s),
        positions = plan.positions[:%(limit)s::bigint], prefetched = plan.positions[%(limit)s + 1:],
        attempts = NULL, failures = NULL, losses = 0, claim = %(claim)s, alone = %(alone)s,
        claimed_at = clock_timestamp()
    FROM plan
    WHERE held.group_name = %(group)s AND held.id = %(batch)s AND held.token = %(token)s
      AND held.positions OPERATOR(pg_catalog.=) %(positions)s::bigint[]
      AND cardinality(held.prefetched) = 0
    RETURNING held.token, held.expires_at, held.prefetched, plan.position
),
moved AS (
    UPDATE {schema}.groups AS held
    SET position = mine.position, updated_at = clock_timestamp()
    FROM mine
    WHERE held.name = %(group)s
)
(SELECT 0::bigint, {commit}, mine.token, NULL::text,
        CASE WHEN (SELECT count(*) FROM batch) < %(limit)s THEN coalesce((
            {include group_wait}
        )::text, 'none') END,
        NULL::text, NULL::text, expires_at, NULL::text,
        CASE WHEN mine.token IS NOT NULL THEN cardinality(prefetched)
             WHEN EXISTS (SELECT FROM {schema}.batches
                          WHERE group_name = %(group)s AND prefetched <> '{{}}') THEN 1
             ELSE 0 END::bigint,
        coalesce(before.position < locked.position, false), NULL::text, NULL::timestamptz
 FROM before LEFT JOIN locked ON true LEFT JOIN mine ON true
 WHERE mine.token IS NOT NULL
    OR cardinality(%(positions)s::bigint[]) = 0 AND NOT EXISTS (SELECT FROM batch)
       AND before.position + %(skip)s > %(until)s)
UNION ALL
(SELECT {include event_columns} FROM batch WHERE EXISTS (SELECT FROM mine)
 ORDER BY position LIMIT %(limit)s)
