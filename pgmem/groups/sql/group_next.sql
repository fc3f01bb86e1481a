-- Acknowledge a whole batch, and hand out the next one in the same slot, or in one that is empty: what
-- nearly every claim is, in a third of the work of group_claim. Where anything stands in the way (a
-- lease that ran out, something due, nothing new, a batch that is not ours any more) it does nothing,
-- and gives no row: group_claim finds out what. (But that there is nothing new is told to who has
-- nothing to acknowledge: of many who wait, all but one learn that.) Its order of things is the same:
-- the group's row is locked, the newest position is read from it, and only then events behind that
-- are looked for. The slot is written before the group moves, so that a batch that is lost moves
-- nothing. What is more than was asked for is reserved in the slot: see `pgmem.groups.prefetch_ops`; never
-- more than a quarter of the member's share of what there is, so that nobody has to take it back in
-- the end.
WITH before AS MATERIALIZED (
    SELECT held.position FROM {schema}.groups AS held CROSS JOIN (
{include history}
    ) AS present
    WHERE held.name = %(group)s
      AND held.system_identifier = present.system_identifier
      AND held.timeline = present.timeline
      AND NOT EXISTS (SELECT FROM {schema}.trimmed
                      WHERE trimmed.position > held.position AND trimmed_at > held.started_at {trimmed})
      AND NOT EXISTS (SELECT FROM {schema}.batches
                      WHERE group_name = %(group)s
                        AND (positions <> '{{}}' AND expires_at <= clock_timestamp()
                             OR {include reserve_left}))
      AND NOT EXISTS (SELECT FROM {schema}.delayed
                      WHERE group_name = %(group)s AND available_at <= clock_timestamp())
      AND NOT EXISTS (SELECT FROM {schema}.delayed
                      WHERE group_name = %(group)s OFFSET %(delayed_most)s - 1)
),
locked AS MATERIALIZED (
    SELECT held.position FROM {schema}.groups AS held
    WHERE held.name = %(group)s AND EXISTS (SELECT FROM before WHERE position < %(until)s)
    FOR NO KEY UPDATE
),
batch AS MATERIALIZED (
    SELECT found.*
    FROM locked CROSS JOIN LATERAL (
        SELECT * FROM {schema}.events
        WHERE position > locked.position AND position <= %(until)s {filter}
        ORDER BY position LIMIT %(limit)s * (1 + least(%(reserving)s, (%(until)s - locked.position)
            / (SELECT 4 * %(limit)s * count(*) FROM {schema}.batches
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
        positions = plan.positions[:%(limit)s], prefetched = plan.positions[%(limit)s + 1:],
        attempts = NULL, claimed_at = clock_timestamp()
    FROM plan
    WHERE held.group_name = %(group)s AND held.id = %(slot)s AND held.token = %(token)s
      AND held.positions = %(positions)s::bigint[] AND held.prefetched = '{{}}'
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
    OR %(positions)s = '{{}}' AND NOT EXISTS (SELECT FROM batch)
       AND before.position + %(skip)s > %(until)s)
UNION ALL
(SELECT {include event_columns} FROM batch WHERE EXISTS (SELECT FROM mine)
 ORDER BY position LIMIT %(limit)s)
