-- Acknowledge a whole batch, and hand out what is reserved in the same slot: no other row is touched,
-- so members do not wait for one another. Where the batch is not ours any more, or somebody has taken
-- what was reserved, it does nothing and gives no row. What is not in the log any more (a forced trim)
-- is held, and not given: when the lease has run out, `group_takeover` buries it.
WITH mine AS (
    UPDATE {schema}.batches
    SET token = nextval({batch_tokens}), member = %(member)s,
        expires_at = clock_timestamp() + make_interval(secs => %(lease)s),
        positions = prefetched[:%(limit)s], prefetched = prefetched[%(limit)s + 1:],
        attempts = NULL, claimed_at = clock_timestamp()
    WHERE group_name = %(group)s AND id = %(slot)s AND token = %(token)s
      AND positions = %(positions)s::bigint[] AND prefetched <> '{{}}'
    RETURNING token, expires_at, positions, prefetched
)
(SELECT 0::bigint, {commit}, token, NULL::text, NULL::text, NULL::text, NULL::text, expires_at,
        NULL::text, cardinality(prefetched)::bigint, NULL::boolean, NULL::text, NULL::timestamptz
 FROM mine)
UNION ALL
(SELECT {include event_columns} FROM {schema}.events
 WHERE position = ANY ((SELECT positions FROM mine)::bigint[]) ORDER BY position)
